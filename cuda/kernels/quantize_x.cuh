// Packs activations for 8-bit weights (packed_x.h), one CTA a token: as i8 or e4m3 with a scale per token, or as f16 where they are bf16. A
// power of two then brings the largest of a token just below the end of f16, so that nothing is lost but what is 2^-25 of it and smaller.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "device/ptx.cuh"
#include "device/ptx_bytes.cuh"
#include "kernels/packed_x.h"
#include "kernels/spmm_bytes_params.h"

namespace gossamer {

// What activations become. The largest of a token becomes the largest number of 8 bits.
enum class XValues { f16, i8, e4m3 };
GOSSAMER_HOST_DEVICE constexpr float largest_of(XValues values) { return values == XValues::i8 ? 127.0F : 448.0F; }

inline constexpr int kQuantizeThreads = 512, kQuantizeSharedBytes = kQuantizeThreads / 32 * 4;

// Eight values of a token from a column that is a multiple of 8, zeros beyond n and k.
template <class Half>
__device__ __forceinline__ void read_eight(const SpmmParams& p, int token, int column, float (&v)[8]) {
  Half halves[8];
  const Half* x = static_cast<const Half*>(p.x) + token * p.ldx + column;
  if (token < p.n && p.x_is_aligned && column + 8 <= p.k) {
    const uint4 loaded = ptx::load_global_16(x);
    std::memcpy(halves, &loaded, 16);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) halves[i] = token < p.n && column + i < p.k ? x[i] : Half(0.0F);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = static_cast<float>(halves[i]);
}

// Eight values from chunk * 8 on, to their places.
template <XValues kValues, PackedX kLayout>
__device__ __forceinline__ void write_eight(const SpmmParams& p, int token, int chunk, int n_tiles, const float (&v)[8]) {
  const std::int64_t record = std::int64_t{token / (8 * n_tiles)} * p.records + chunk / 8;
  std::uint8_t* out = p.packed_x + record * packed_x_record_bytes(kLayout, n_tiles);
  const auto place = [&](int i) { return out + packed_x_offset(kLayout, n_tiles, token % (8 * n_tiles), chunk % 8 * 8 + i); };
  if constexpr (is_of_bytes(kLayout)) {
    std::uint32_t words[2] = {};
    if constexpr (kValues == XValues::e4m3) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) words[i / 4] |= ptx::to_e4m3(v[i], v[i + 1]) << (8 * (i % 4));
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) words[i / 4] |= (static_cast<std::uint32_t>(__float2int_rn(v[i])) & 0xffU) << (8 * (i % 4));
    }
    if constexpr (kLayout == PackedX::bytes) {
      *reinterpret_cast<uint2*>(place(0)) = make_uint2(words[0], words[1]);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) *reinterpret_cast<std::uint32_t*>(place(4 * i)) = words[i];
    }
  } else {
    std::uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 pair = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
      std::memcpy(&words[i], &pair, 4);
    }
    if constexpr (kLayout == PackedX::fragments) {
      *reinterpret_cast<uint4*>(place(0)) = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) *reinterpret_cast<std::uint32_t*>(place(2 * i)) = words[i];
    }
  }
}

template <class Half, XValues kValues, PackedX kLayout>
__global__ void __launch_bounds__(kQuantizeThreads) quantize_x_kernel(const __grid_constant__ SpmmBytesParams params, int n_tiles) {
  static_assert(is_of_bytes(kLayout) == (kValues != XValues::f16));
  const SpmmParams& p = params.base;
  constexpr int kKept = 4;                                 // chunks a thread keeps in registers between the two walks over the row
  extern __shared__ __align__(128) std::uint8_t shared[];  // u32 largest[warps]
  const std::uint32_t largest = ptx::shared_address(shared);
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int token = blockIdx.x, chunks = p.records * 8;
  float kept[kKept][8];
  std::uint32_t most = 0;  // bits of |x|: NaN is above everything, and stays
  const auto look = [&](const float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) most = max(most, __float_as_uint(fabsf(v[i])));
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int chunk = j * kQuantizeThreads + threadIdx.x;
    if (chunk >= chunks) continue;
    read_eight<Half>(p, token, chunk * 8, kept[j]);
    look(kept[j]);
  }
  for (int chunk = kKept * kQuantizeThreads + threadIdx.x; chunk < chunks; chunk += kQuantizeThreads) {
    float v[8];
    read_eight<Half>(p, token, chunk * 8, v);
    look(v);
  }
  most = ptx::warp_max(most);
  if (threadIdx.x % 32 == 0) ptx::store_shared_u32(largest + threadIdx.x / 32 * 4, most);
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kQuantizeThreads / 32; ++w) most = max(most, ptx::load_shared_u32(largest + 4 * w));
  const float top = __uint_as_float(most);
  float scale = 1.0F, inverse = 1.0F;
  if constexpr (kValues != XValues::f16) {
    scale = top / largest_of(kValues);
    inverse = top >= 1e-30F ? largest_of(kValues) / top : 0.0F;
  } else if (most < 0x7f800000U && top >= 1e-30F) {
    const int exponent = static_cast<int>(most >> 23) - 127 - 14;
    scale = exp2f(static_cast<float>(exponent));
    inverse = exp2f(static_cast<float>(-exponent));
  }
  if (threadIdx.x == 0) params.token_scales[token] = scale;  // not finite where the token is not
  const auto put = [&](int chunk, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] *= inverse;
    write_eight<kValues, kLayout>(p, token, chunk, n_tiles, v);
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int chunk = j * kQuantizeThreads + threadIdx.x;
    if (chunk < chunks) put(chunk, kept[j]);
  }
  for (int chunk = kKept * kQuantizeThreads + threadIdx.x; chunk < chunks; chunk += kQuantizeThreads) {
    float v[8];
    read_eight<Half>(p, token, chunk * 8, v);
    put(chunk, v);
  }
}

}  // namespace gossamer
