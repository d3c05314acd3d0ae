#!/usr/bin/env bash
# Builds Gossamer for this machine's GPUs, tests the exchange kernels and measures tensor parallel (run.py), in about ten minutes.
#
#   benchmarks/tensor_parallel/gpu.sh OUT [two|four]      four: only what needs four GPUs, rows appended
#   benchmarks/tensor_parallel/gpu.sh OUT tiny            tries it on CPU ranks
#
# OUT gets tp_h100.json, which begins as the one in benchmarks/results, and logs. MPIRUN names Open MPI's mpirun, PYTHON an interpreter with
# what the package needs, and torch for the split of a step. SITE, if set, is a folder with a built gossamer of this checkout, and BUILD its
# build folder. LIMIT: seconds in all.
set -u
cd "$(dirname "$0")/../.."
root=$PWD
out=${1:?usage: gpu.sh OUT [two|four|tiny]}
plan=${2:-two}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-$([ -x .venv/bin/python ] && echo "$root/.venv/bin/python" || echo python3)}
site=${SITE:-$root/build/gpu/site}
build=${BUILD:-$root/build/gpu/cmake}
limit=${LIMIT:-590}

if [ -z "${SITE:-}" ]; then
  { cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGOSSAMER_BUILD_PYTHON=ON -DGOSSAMER_CUDA=ON \
    -DGOSSAMER_CUDA_ARCHITECTURES=90a -DPython_EXECUTABLE="$(command -v "$python")" && cmake --build "$build" -j "$(nproc)"; } \
    >"$out/build.log" 2>&1 || { tail -20 "$out/build.log"; exit 1; }
  mkdir -p "$site"
  cp -r python/gossamer "$site/"
  cp "$build"/cpp/libgossamer*.so "$(find "$build" -name '_core*.so' | head -1)" "$site/gossamer/"
  echo "built after $SECONDS s"
fi
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

# NCCL and cuBLASLt of the interpreter's own wheels, where these do not lie beside Gossamer.
wheels=$("$python" -c 'import importlib.util as u; s = u.find_spec("nvidia"); print(list(s.submodule_search_locations)[0] if s else "")')
if [ -n "$wheels" ]; then
  export LD_LIBRARY_PATH="$wheels/nccl/lib:$wheels/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

options=(--mpirun "${MPIRUN:-mpirun}")
if [ "$plan" = tiny ]; then
  options+=(--device cpu)
else
  nvidia-smi topo -m >"$out/topology.txt" 2>&1
  if [ -x "$build/tests/cpp/test_gpu" ]; then
    timeout -k 5 60 "$build/tests/cpp/test_gpu" --gtest_filter='Exchange*' >"$out/exchange_test.log" 2>&1
    echo "exchange tests: status $? after $SECONDS s"
  fi
  "${CXX:-g++}" -std=c++20 -O2 -I cpp benchmarks/kernels/all_reduce_bench.cpp -L "$site/gossamer" -lgossamer \
    -Wl,-rpath,"$site/gossamer" -o "$out/all_reduce_bench" && options+=(--bench "$out/all_reduce_bench")
fi
[ -e "$out/tp_h100.json" ] || cp benchmarks/results/tp_h100.json "$out/" 2>/dev/null
"$python" benchmarks/tensor_parallel/run.py "$plan" "$out/tp_h100.json" "${options[@]}" --limit $((limit - SECONDS)) 2>&1 | tee "$out/run.log"
