// Random weights, made in place: the element formula is that of ops/random_weight.h, the layout that of cpp/sparse/FORMAT.md.
#pragma once

#include "device/numeric.cuh"
#include "kernels/random_params.h"
#include "kernels/tile_position.cuh"

namespace gossamer::cuda {

inline constexpr int kRandomWarps = 4;

__device__ __forceinline__ std::uint64_t random_bits_of(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}
template <class T>
__device__ __forceinline__ T random_value_of(std::uint64_t bits, float scale) {
  const float unit = __fadd_rn(static_cast<float>(2 * static_cast<std::uint32_t>(bits & 0x7FFFFFU) + 1) * 0x1p-23F, -1.0F);
  return from_float<T>(__fmul_rn(unit, scale));
}

// One thread per 8 elements of a row, the padding behind it included.
template <class T>
__global__ void random_dense_kernel(const RandomParams p) {
  const std::int64_t index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t per_row = p.ld / 8;
  if (index >= p.rows * per_row) return;
  const std::int64_t row = index / per_row, col = index % per_row * 8;
  Eight<T> v;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const std::uint64_t bits = random_bits_of(p.seed, static_cast<std::uint64_t>(row * p.cols + col + e));
    v.at[e] = col + e < p.cols ? random_value_of<T>(bits, p.scale) : from_float<T>(0.0F);
  }
  *reinterpret_cast<Eight<T>*>(static_cast<T*>(p.dense) + row * p.ld + col) = v;
}

struct RandomElement {
  bool kept;
  std::uint64_t bits;
};
__device__ __forceinline__ RandomElement random_element(const RandomParams& p, std::int64_t record, int tile, int half, int lane, int e) {
  const TilePosition at = tile_position(tile, half, lane, e);
  const std::int64_t row = record / p.records * 32 + at.row, col = record % p.records * 64 + at.col;
  const std::uint64_t bits = random_bits_of(p.seed, static_cast<std::uint64_t>(row * p.cols + col));
  return {row < p.rows && col < p.cols && bits >> 32 >= p.threshold, bits};
}

// One warp per record: how many units of 16 bytes it takes.
__global__ void random_count_kernel(const RandomParams p) {
  const std::int64_t record = std::int64_t{blockIdx.x} * kRandomWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (record >= p.row_blocks * p.records) return;
  int count = 0;
  for (int half = 0; half < 16; ++half)
    for (int e = 0; e < 4; ++e) count += random_element(p, record, half / 8, half % 8, lane, e).kept ? 1 : 0;
  count = warp_sum(count);
  if (lane == 0) p.units[record] = (256 + 2 * count + 15) / 16;
}

template <class T>
__global__ void random_records_kernel(const RandomParams p) {
  const std::int64_t record = std::int64_t{blockIdx.x} * kRandomWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (record >= p.row_blocks * p.records) return;
  std::uint8_t* out = p.data + 16 * std::int64_t{p.offsets[record]};
  T* values = reinterpret_cast<T*>(out + 256);
  const T* end = reinterpret_cast<const T*>(p.data + 16 * std::int64_t{p.offsets[record + 1]});
  for (int tile = 0; tile < 2; ++tile) {
    std::uint32_t mask = 0;
    for (int half = 0; half < 8; ++half) {
      RandomElement elements[4];
      int count = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        elements[e] = random_element(p, record, tile, half, lane, e);
        count += elements[e].kept ? 1 : 0;
        mask |= (elements[e].kept ? 1U : 0U) << (4 * half + e);
      }
      int before = count;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, before, distance);
        if (lane >= distance) before += other;
      }
      T* own = values + before - count;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (elements[e].kept) *own++ = random_value_of<T>(elements[e].bits, p.scale);
      values += __shfl_sync(0xffffffffU, before, 31);
    }
    reinterpret_cast<std::uint32_t*>(out)[32 * tile + lane] = mask;
  }
  if (values + lane < end) values[lane] = from_float<T>(0.0F);  // padding: fewer than 8 values
}

}  // namespace gossamer::cuda
