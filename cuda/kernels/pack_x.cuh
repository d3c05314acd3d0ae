// Packs activations (packed_x.h). One thread for 16 bytes of output; any alignment of x, any k.
#pragma once

#include "device/ptx.cuh"
#include "kernels/packed_x.h"
#include "kernels/spmm_params.h"

namespace gossamer {

// x[token, column .. column + kCount), zero beyond n and k, two values a word.
template <int kCount>
__device__ __forceinline__ void read_x(const SpmmParams& p, int token, int column, std::uint32_t* words) {
  const auto* x = static_cast<const std::uint16_t*>(p.x) + token * p.ldx + column;
  if (token < p.n && p.x_is_aligned && column + kCount <= p.k) {
    if constexpr (kCount == 8) {
      *reinterpret_cast<uint4*>(words) = ptx::load_global_16(x);
    } else {
      *words = *reinterpret_cast<const std::uint32_t*>(x);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const std::uint32_t low = token < p.n && column + i < p.k ? x[i] : 0, high = token < p.n && column + i + 1 < p.k ? x[i + 1] : 0;
    words[i / 2] = low | high << 16;
  }
}

template <bool kCoreMatrices>
__global__ void __launch_bounds__(256) pack_x_kernel(const __grid_constant__ SpmmParams p, int n_tiles, int passes) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int chunks = n_tiles * 64;  // 16 bytes each, of one record
  const std::int64_t index = std::int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (index >= std::int64_t{passes} * p.records * chunks) return;
  const int chunk = static_cast<int>(index % chunks);
  const std::int64_t tile = index / chunks;
  const int column = static_cast<int>(tile % p.records) * 64, first_token = static_cast<int>(tile / p.records) * n_tiles * 8;
  alignas(16) std::uint32_t words[4];
  if constexpr (kCoreMatrices) {
    const int f = chunk / 16 / n_tiles, half = chunk / 8 % 2, token = first_token + chunk / 16 % n_tiles * 8 + chunk % 8;
#pragma unroll
    for (int q = 0; q < 4; ++q) read_x<2>(p, token, column + f / 2 * 32 + 8 * q + f % 2 * 4 + half * 2, words + q);
  } else {
    const int lane = chunk % 32;
    read_x<8>(p, first_token + chunk / 64 * 8 + lane / 4, column + chunk / 32 % 2 * 32 + lane % 4 * 8, words);
  }
  reinterpret_cast<uint4*>(p.packed_x)[index] = *reinterpret_cast<const uint4*>(words);
}

}  // namespace gossamer
