# Every target sets up what it needs in .venv; only setup-dev touches the system. PYTHON, CXX and JOBS may be set.
PYTHON ?= python3
JOBS ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/venv
CPP_FILES = $(shell git ls-files 'cpp/*.h' 'cpp/*.cpp' 'cuda/*.h' 'cuda/*.cpp' 'cuda/*.cu' 'cuda/*.cuh' 'tests/cpp/*' 'python/bindings/*.cpp' \
  'python/bindings/*.h' 'examples/cpp/*.cpp' 'benchmarks/kernels/*.cpp' | grep -E '\.(h|cpp|cu|cuh)$$')

export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(shell command -v ccache),)
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
endif

comma := ,

# Is GoogleTest there? In CI its absence is a failure, elsewhere the C++ tests are skipped with a message.
HAVE_GTEST := $(shell $(or $(CXX),c++) -E -x c++ -include gtest/gtest.h /dev/null >/dev/null 2>&1 && echo yes)
CPP_TESTS := $(if $(HAVE_GTEST),ON,OFF)

.PHONY: help demo demo-results test test-hf test-gpu check asan tsan bench bench-cpu bench-gpu cuda dev setup-dev clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## */\1|/' | awk -F'|' '{printf "  make %-13s %s\n", $$1, $$2}'

# CUDA=ON makes a missing nvcc an error; AUTO, the default, builds the CUDA backend where nvcc is found. ARCHS="90a" narrows it.
CUDA ?= AUTO

# $(call install,EXTRAS,PIP FLAGS): builds incrementally in $(BUILD) and installs the package, not an editable one, as a user would get it.
WITH_TESTS = -Ccmake.define.GOSSAMER_BUILD_TESTS=$(CPP_TESTS) -Ccmake.define.GOSSAMER_BUILD_EXAMPLES=ON
WITHOUT_TESTS = -Ccmake.define.GOSSAMER_BUILD_TESTS=OFF -Ccmake.define.GOSSAMER_BUILD_EXAMPLES=OFF
define install
@echo "Building and installing gossamer[$(1)] into $(VENV) ..."
@$(BIN)/pip install -q --no-build-isolation -Cbuild-dir=$(BUILD) -Ccmake.define.GOSSAMER_CUDA=$(CUDA) \
  $(if $(ARCHS),-Ccmake.define.GOSSAMER_CUDA_ARCHITECTURES="$(ARCHS)") $(2) '.[$(1)]'
endef

define require_gtest
@if [ -z "$(HAVE_GTEST)" ]; then \
  if [ "$(CI)" = true ]; then echo "GoogleTest is missing: run 'make setup-dev'." >&2; exit 1; fi; \
  echo "SKIPPED: the C++ tests need GoogleTest; 'make setup-dev' installs it."; fi
endef

$(BIN)/pip:
	@sh scripts/preflight.sh
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q -U 'pip>=25.1'

$(VENV)/.build-tools: pyproject.toml | $(BIN)/pip
	@echo "Fetching the build tools into $(VENV) ..."
	@$(BIN)/pip install -q --group build
	@touch $@

demo demo-results: CUDA := OFF
demo: $(VENV)/.build-tools  ## convert, prune and talk to a real language model (several minutes, 93 MB to download)
	@sh scripts/preflight.sh
	$(call install,gguf,$(WITHOUT_TESTS))
	@$(BIN)/python -m gossamer.demo

demo-results: $(VENV)/.build-tools  ## the demo, measured again with a fresh process per row, into benchmarks/results/cpu_demo.json
	@sh scripts/preflight.sh
	$(call install,gguf,$(WITHOUT_TESTS))
	@$(BIN)/python -m gossamer.demo --results benchmarks/results/cpu_demo.json

test: $(VENV)/.build-tools  ## all tests that need neither torch nor a GPU
	$(call require_gtest)
	$(call install,test,$(WITH_TESTS))
	$(if $(HAVE_GTEST),$(BIN)/ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS))
	$(BIN)/python -m pytest -m "not hf and not gpu"

test-hf: $(VENV)/.build-tools  ## parity with Hugging Face transformers (installs torch: a large download)
	$(call install,hf,$(WITH_TESTS))
	$(BIN)/python -m pytest -m hf

test-gpu: CUDA := ON
test-gpu: $(VENV)/.build-tools  ## every test that needs an NVIDIA GPU, C++ and Python; ARCHS="90a" narrows the build
	$(call require_gtest)
	$(call install,test$(comma)cuda,$(WITH_TESTS))
	$(if $(HAVE_GTEST),$(BIN)/ctest --test-dir $(BUILD) -L gpu --output-on-failure)
	$(BIN)/python -m pytest -m gpu

bench-gpu: $(VENV)/.build-tools  ## models end to end on an NVIDIA GPU, into build/bench-gpu (about 10 minutes on an H100; see benchmarks/README.md)
	bash benchmarks/end_to_end/gpu.sh build/bench-gpu

check: $(VENV)/.build-tools  ## format, lint, types, -Werror, CPU tests: what to run before a commit
	$(call install,dev,$(WITH_TESTS) -Ccmake.define.GOSSAMER_WERROR=ON)
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(call require_gtest)
	$(if $(HAVE_GTEST),$(BIN)/ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS))
	$(BIN)/python -m pytest -m "not hf and not gpu"

asan tsan: $(VENV)/.build-tools  ## the C++ tests under AddressSanitizer + UBSan, or ThreadSanitizer
	@[ -n "$(HAVE_GTEST)" ] || { echo "GoogleTest is missing: run 'make setup-dev'." >&2; exit 1; }
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset $@ && $(BIN)/cmake --build --preset $@ && $(BIN)/ctest --preset $@

cuda: $(VENV)/.build-tools  ## compile the CUDA backend (needs nvcc, not a GPU); ARCHS="90a" narrows it
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset cuda $(if $(ARCHS),-DGOSSAMER_CUDA_ARCHITECTURES="$(ARCHS)") -DGOSSAMER_BUILD_TESTS=OFF
	$(BIN)/cmake --build --preset cuda --target gossamer_cuda

bench: $(VENV)/.build-tools  ## micro benchmarks of the products (needs Google Benchmark: make setup-dev)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset bench && $(BIN)/cmake --build --preset bench
	@for program in build/bench/benchmarks/kernels/bench_*; do [ ! -x "$$program" ] || "$$program"; done

bench-cpu: CUDA := OFF
bench-cpu: $(VENV)/.build-tools  ## the CPU's products and whole models beside rivals, into benchmarks/results/cpu_*.json (40 minutes, 15 GB of disk)
	$(call install,gguf$(comma)plot,$(WITHOUT_TESTS) -Ccmake.define.GOSSAMER_BUILD_BENCHMARKS=ON)
	$(BIN)/python benchmarks/cpu/kernels.py $(BUILD)/benchmarks/kernels/bench_products benchmarks/results/cpu_kernels.json
	$(BIN)/python benchmarks/cpu/end_to_end.py benchmarks/results/cpu_end_to_end.json

dev: $(VENV)/.build-tools  ## an editable install that rebuilds on import, for working on the code
	@$(BIN)/pip install -q --no-build-isolation -Cbuild-dir=build/editable -Ceditable.rebuild=true -e '.[dev]'
	@echo "Run '. $(BIN)/activate'; Python edits show at once, C++ edits are rebuilt on import."

setup-dev:  ## install the system packages that developers need (apt)
	@sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	packages="g++ git libbenchmark-dev libgtest-dev make openmpi-bin"; \
	command -v $(PYTHON) >/dev/null || packages="$$packages python3 python3-dev python3-venv"; \
	if dpkg -s $$packages >/dev/null 2>&1; then echo "System packages are there: $$packages"; else \
	$$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$packages; fi

clean:  ## remove builds and .venv (the demo's models in .demo stay)
	rm -rf build dist $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache
