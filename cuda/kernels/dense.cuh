// The dense product without a library: for shapes and machines that cuBLASLt does not serve, and small batches. A warp takes one row of W
// and up to kDenseTokens tokens, lanes along k; one fixed order of sums per output.
#pragma once

#include "device/numeric.cuh"
#include "device/ptx.cuh"
#include "kernels/activation.cuh"
#include "kernels/dense_params.h"

namespace gossamer::cuda {

inline constexpr int kDenseWarps = 4;

template <class T, class Out, int kTokens, bool kVectorX>
__global__ void __launch_bounds__(kDenseWarps * 32) dense_kernel(const __grid_constant__ DenseParams p) {
  if (p.overlaps) ptx::launch_dependents();
  const std::int64_t row = std::int64_t{blockIdx.x} * kDenseWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= p.m) return;  // warps work alone, and the block's first has a row
  const std::int64_t first = std::int64_t{blockIdx.y} * kTokens;
  const T* weight = static_cast<const T*>(p.weight) + row * p.ldw;
  const T* x = static_cast<const T*>(p.x) + first * p.ldx;
  ptx::wait_for_previous_grid();
  float sums[kTokens] = {};
#pragma unroll 2
  for (std::int64_t j = 8 * lane; j < p.k; j += 256) {
    float w[8];
    load_eight(w, weight + j);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (first + t >= p.n) break;
      if constexpr (kVectorX) {
        float v[8];
        load_eight(v, x + t * p.ldx + j);
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[t] += w[e] * v[e];
      } else {
#pragma unroll
        for (int e = 0; e < 8; ++e)
          if (j + e < p.k) sums[t] += w[e] * to_float(x[t * p.ldx + j + e]);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) sums[t] = warp_sum(sums[t]);
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (lane != t || first + t >= p.n) continue;
    float y = sums[t];
    if (p.bias != nullptr) y += to_float(static_cast<const T*>(p.bias)[row]);
    y = activate(y, p.act);
    if (p.residual != nullptr) y += to_float(static_cast<const Out*>(p.residual)[(first + t) * p.ldr + row]);
    static_cast<Out*>(p.out)[(first + t) * p.ldo + row] = from_float<Out>(y);
  }
}

}  // namespace gossamer::cuda
