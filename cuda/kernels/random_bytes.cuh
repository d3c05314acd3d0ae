// Random weights of 8-bit values, made in place: the element formula is that of ops/random_weight.h, the layout that of
// cpp/sparse/FORMAT.md.
#pragma once

#include <cuda_fp8.h>

#include "device/numeric.cuh"
#include "kernels/random_params.h"

namespace gossamer::cuda {

inline constexpr int kRandomWarps = 4;

struct RandomByte {
  bool kept;
  std::uint64_t bits;
};
// Column i of row half `half` in fragment f (of the tile) of a lane.
__device__ __forceinline__ RandomByte random_byte(const RandomParams& p, std::int64_t record, int tile, int f, int lane, int half, int i) {
  const std::int64_t row = record / p.records * 32 + 16 * tile + lane / 4 + 8 * half;
  const std::int64_t col = record % p.records * 64 + 32 * (f / 2) + 8 * (lane % 4) + 4 * (f % 2) + i;
  std::uint64_t z = p.seed + (static_cast<std::uint64_t>(row * p.cols + col) + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  z ^= z >> 31;
  return {row < p.rows && col < p.cols && z >> 32 >= p.threshold, z};
}

template <bool kIsE4m3>
__device__ __forceinline__ std::uint8_t random_byte_of(std::uint64_t bits) {
  const float unit = __fadd_rn(static_cast<float>(2 * static_cast<std::uint32_t>(bits & 0x7FFFFFU) + 1) * 0x1p-23F, -1.0F);
  if constexpr (kIsE4m3) {
    return __nv_cvt_float_to_fp8(__fmul_rn(unit, 448.0F), __NV_SATFINITE, __NV_E4M3);
  } else {
    return static_cast<std::uint8_t>(__float2int_rn(__fmul_rn(unit, 127.0F)));
  }
}

// One warp per record: how many units of 16 bytes it takes.
__global__ void random_bytes_count_kernel(const RandomParams p) {
  const std::int64_t record = std::int64_t{blockIdx.x} * kRandomWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (record >= p.row_blocks * p.records) return;
  int count = 0;
  for (int at = 0; at < 64; ++at) count += random_byte(p, record, at / 32, at / 8 % 4, lane, at / 4 % 2, at % 4).kept ? 1 : 0;
  count = warp_sum(count);
  if (lane == 0) p.units[record] = (256 + count + 15) / 16;
}

template <bool kIsE4m3>
__global__ void random_bytes_records_kernel(const RandomParams p) {
  const std::int64_t record = std::int64_t{blockIdx.x} * kRandomWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (record >= p.row_blocks * p.records) return;
  std::uint8_t* out = p.data + 16 * std::int64_t{p.offsets[record]};
  std::uint8_t* values = out + 256;
  const std::uint8_t* end = p.data + 16 * std::int64_t{p.offsets[record + 1]};
  for (int tile = 0; tile < 2; ++tile) {
    std::uint32_t mask = 0;
    for (int f = 0; f < 4; ++f) {
      RandomByte elements[8];
      int count = 0;
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        elements[e] = random_byte(p, record, tile, f, lane, e / 4, e % 4);
        count += elements[e].kept ? 1 : 0;
        mask |= (elements[e].kept ? 1U : 0U) << (8 * f + e);
      }
      int before = count;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, before, distance);
        if (lane >= distance) before += other;
      }
      std::uint8_t* own = values + before - count;
#pragma unroll
      for (int e = 0; e < 8; ++e)
        if (elements[e].kept) *own++ = random_byte_of<kIsE4m3>(elements[e].bits);
      values += __shfl_sync(0xffffffffU, before, 31);
    }
    reinterpret_cast<std::uint32_t*>(out)[32 * tile + lane] = mask;
  }
  if (values + lane < end) values[lane] = 0;  // padding: fewer than 16 values
}

}  // namespace gossamer::cuda
