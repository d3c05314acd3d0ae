// The dense product without a library: for shapes and machines that cuBLASLt does not serve, and small batches. A warp takes one row of W
// and up to kDenseTokens tokens, lanes along k; one fixed order of sums per output.
#pragma once

#include "device/numeric.cuh"
#include "kernels/activation.cuh"
#include "kernels/dense_params.h"

namespace gossamer::cuda {

inline constexpr int kDenseWarps = 4;

template <class T, class Out, int kTokens, bool kVectorX>
__global__ void __launch_bounds__(kDenseWarps * 32) dense_kernel(const DenseParams p) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kDenseWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= p.m) return;  // warps work alone
  const std::int64_t first = std::int64_t{blockIdx.y} * kTokens;
  const T* weight = static_cast<const T*>(p.weight) + row * p.ldw;
  const T* x = static_cast<const T*>(p.x) + first * p.ldx;
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

// One warp per record of 32 x 64. A lane holds elements e of fragments f of two tiles, as FORMAT.md says; its values of one half
// follow those of the lanes before it.
template <class T>
__global__ void expand_bitmap_kernel(const ExpandParams p) {
  __shared__ alignas(16) T tile[kDenseWarps][32][64 + 8];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t index = std::int64_t{blockIdx.x} * kDenseWarps + warp;
  if (index >= std::int64_t{p.row_blocks} * p.records) return;  // warps work alone
  const std::uint8_t* record = p.data + 16 * static_cast<std::int64_t>(p.offsets[index]);
  const auto* masks = reinterpret_cast<const std::uint32_t*>(record);
  const T* values = reinterpret_cast<const T*>(record + 256);
  const int group = lane / 4, quad = lane % 4;
  for (int part = 0; part < 2; ++part) {  // the two tiles
    const std::uint32_t mask = masks[32 * part + lane];
    for (int half = 0; half < 8; ++half) {  // fragment half / 2, half half % 2
      const std::uint32_t bits = mask >> (4 * half) & 15U;
      const int count = __popc(bits);
      int before = count;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, before, distance);
        if (lane >= distance) before += other;
      }
      const int all = __shfl_sync(0xffffffffU, before, 31);
      const T* own = values + before - count;
      const int f = half / 2, column = 32 * (f / 2) + 8 * quad + 4 * (f % 2) + 2 * (half % 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool kept = (bits >> e & 1U) != 0;
        tile[warp][16 * part + group + 8 * (e / 2)][column + e % 2] = kept ? *own : from_float<T>(0.0F);
        own += kept ? 1 : 0;
      }
      values += all;
    }
  }
  __syncwarp();
  const std::int64_t first_row = index / p.records * 32, first_column = index % p.records * 64;
  T* out = static_cast<T*>(p.out);
#pragma unroll
  for (int i = 0; i < 8; ++i) {  // 8 lanes write 128 contiguous bytes of a row
    const int row = 4 * i + lane / 8, column = 8 * (lane % 8);
    if (first_row + row < p.m && first_column + column < p.ldw) {
      *reinterpret_cast<Eight<T>*>(out + (first_row + row) * p.ldw + first_column + column) =
          *reinterpret_cast<const Eight<T>*>(&tile[warp][row][column]);
    }
  }
}

}  // namespace gossamer::cuda
