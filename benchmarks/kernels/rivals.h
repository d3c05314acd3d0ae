// The rivals of the SpMM, timed with the method of spmm_bench.cu. Microseconds; 0 where the rival cannot run.
#pragma once

#include "bench_common.h"
#include "launch/expand.h"
#include "sparse/sparse_weight.h"

namespace gossamer::bench {

// cuBLASLt, the fastest of up to 16 heuristics. before: enqueued ahead of each call, timed with it, and returns the weight to multiply
// by, [m, k]; none: dense weights in rotation.
double time_cublas(Shape s, std::int64_t n, bool bf16, const std::function<const void*(int copy, cudaStream_t)>& before = nullptr);
// cuBLASLt with FP8 (e4m3) weights and activations, 16-bit output.
double time_cublas_fp8(Shape s, std::int64_t n);
// cusparseSpMM on CSR with 16-bit values and 32-bit indices: the fastest of its CSR algorithms.
double time_cusparse(const SparseWeight& weight, std::int64_t n);

}  // namespace gossamer::bench
