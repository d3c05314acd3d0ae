#!/usr/bin/env bash
# The SpMM for many tokens on the GPU at hand: checks the kernels, times their arrangements beside cuBLASLt, prints geometric means.
#   benchmarks/kernels/large_n.sh OUT_FOLDER [BUILD_FOLDER]      (an H100; about 4 minutes once built)
# SHAPES, SPARSITY and NS narrow it; SANITIZE=1 runs the check under compute-sanitizer too; PROFILE=1 adds ncu reports.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?usage: $0 OUT_FOLDER [BUILD_FOLDER]} build=${2:-build/large_n}
mkdir -p "$out"
if [ ! -x "$build/benchmarks/kernels/spmm_bench" ] || [ ! -x "$build/tests/cpp/test_gpu" ]; then
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DGOSSAMER_CUDA=ON -DGOSSAMER_BUILD_TESTS=ON -DGOSSAMER_BUILD_BENCHMARKS=ON \
    -DGOSSAMER_CUDA_ARCHITECTURES=90a
  cmake --build "$build" --target spmm_bench test_gpu -j "$(nproc)"
fi
bench=$build/benchmarks/kernels/spmm_bench test=$build/tests/cpp/test_gpu
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
shapes=${SHAPES:-27648x9216,28672x4096,8192x8192,4096x14336,4096x4096} sparsity=${SPARSITY:-0.5,0.6,0.7,0.8,0.9}

timeout 120 "$test" --gtest_filter='WarpSpecialized/*'
if [ "${SANITIZE:-0}" = 1 ]; then
  for tool in memcheck racecheck synccheck initcheck; do
    timeout 120 compute-sanitizer --tool $tool --error-exitcode 1 "$test" --gtest_filter='WarpSpecialized/*:-*/*9000*' | tail -2
  done
fi

# One call for several n, since packing takes longer than timing; what an n has no instance of is skipped.
timeout 500 "$bench" --shapes "$shapes" --sparsity "$sparsity" --n "${NS:-32,64,128}" --csl-from 0.8 --expand-from 256 --commit "$commit" \
  --warps p4x4,w8x2,w16x1,ws8x2 --out "$out/batch.json"
python3 benchmarks/kernels/geometric_means.py "$out/batch.json"

if [ "${PROFILE:-0}" = 1 ]; then
  ncu --set full -k regex:warp_specialized -s 1 -c 1 -f -o "$out/profile" \
    "$bench" --shapes 28672x4096 --sparsity 0.6 --n 64 --warps ws8x2 --expand-from 100000 --out "$out/profiled.json"
fi
