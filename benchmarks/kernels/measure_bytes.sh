#!/usr/bin/env bash
# Everything the SpMM for 8-bit weights has to show on one GPU: correctness first, then which variant is fastest, then the table of
# docs/kernel-notes.md. Usage: benchmarks/kernels/measure_bytes.sh OUT_FOLDER [commit]. About 10 minutes, 1 of them to build.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mkdir -p "$1" && cd "$1" && pwd)
commit=${2:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
cmake --preset cuda -DGOSSAMER_BUILD_BENCHMARKS=ON -DGOSSAMER_CUDA_ARCHITECTURES=90a > "$out/build.txt"
cmake --build build/cuda --target spmm_bytes_bench test_gpu >> "$out/build.txt"
build/cuda/tests/cpp/test_gpu --gtest_filter='*SpmmBytes*' | tee "$out/test_gpu.txt" | tail -3
few='Table/*/3:Table/*/6:Table/*/17:Table/*/31:Table/*/59:Table/*/62:Table/*/79:Arithmetic/*/0:Arithmetic/*/1:WgmmaTable/*/1:WgmmaTable/*/20:WgmmaTable/*/164:WgmmaArithmetic/*/0'
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck initcheck; do
    compute-sanitizer --tool $tool --error-exitcode 1 build/cuda/tests/cpp/test_gpu \
      --gtest_filter="$few" > "$out/$tool.txt" 2>&1 &&
      echo "$tool: clean" || { echo "$tool: see $out/$tool.txt"; tail -5 "$out/$tool.txt"; }
  done
fi
bench=build/cuda/benchmarks/kernels/spmm_bytes_bench
$bench --variants all --shapes 27648x9216,4096x4096,8192x8192 --sparsity 0.5,0.7 --n 1,8,16 --commit "$commit" --out "$out/spmm_bytes_variants.json"
$bench --n 1,8,16,64 --sparsity 0.5,0.6,0.7,0.8 --commit "$commit" --out "$out/spmm_bytes_h100.json"
$bench --n 8 --sparsity 0 --commit "$commit" --out "$out/spmm_bytes_full_mask.json"
$bench --n 8,16 --sparsity 0.5 --dtype bf16 --shapes 27648x9216,8192x8192 --commit "$commit" --out "$out/spmm_bytes_bf16.json"
$bench --variants wgmma --values fp8 --n 64,128 --sparsity 0.5,0.6,0.8 --commit "$commit" --out "$out/spmm_bytes_wgmma.json"
python3 benchmarks/kernels/geometric_means.py --over "cublaslt fp8" "$out/spmm_bytes_wgmma.json"
