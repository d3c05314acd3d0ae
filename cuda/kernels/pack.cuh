// Packs bitmap tiles on the device, byte for byte what pack_tiles makes on the host.
#pragma once

#include <cstdint>

#include "kernels/pack_params.h"
#include "kernels/tile_position.cuh"

namespace gossamer::cuda {

inline constexpr int kPackWarps = 4;

// The 64 mask bits of a row in a record; zeros beyond the weight.
__device__ __forceinline__ std::uint64_t row_mask(const PackParams& p, std::int64_t row, std::int64_t record) {
  const std::int64_t first = 8 * record, bytes = p.mask_stride - first < 8 ? p.mask_stride - first : 8;
  if (row >= p.rows) return 0;
  const std::uint8_t* from = p.mask + row * p.mask_stride + first;
  if (bytes == 8 && p.mask_stride % 8 == 0) return *reinterpret_cast<const std::uint64_t*>(from);  // the mask is aligned
  std::uint64_t bits = 0;
  for (int i = 0; i < bytes; ++i) bits |= std::uint64_t{from[i]} << (8 * i);
  return bits;
}

// One warp per row block, a lane per row.
inline __global__ void pack_count_kernel(const PackParams p) {
  const std::int64_t block = std::int64_t{blockIdx.x} * kPackWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (block >= p.row_blocks) return;
  std::int32_t total = 0;
#pragma unroll 4
  for (std::int64_t record = 0; record < p.records; ++record) {
    p.before[(block * p.records + record) * 32 + lane] = total;
    total += __popcll(row_mask(p, block * 32 + lane, record));
  }
}

// One warp per record; a lane holds the mask of a row, and where the row's values for this record begin.
inline __global__ void pack_records_kernel(const PackParams p) {
  const std::int64_t record = std::int64_t{blockIdx.x} * kPackWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (record >= p.row_blocks * p.records) return;
  const std::int64_t row = record / p.records * 32 + lane;
  const std::uint64_t mask = row_mask(p, row, record % p.records);
  const std::int64_t first = row < p.rows ? p.row_offsets[row] + p.before[record * 32 + lane] : 0;
  std::uint8_t* out = p.data + 16 * std::int64_t{p.offsets[record]};
  auto* values = reinterpret_cast<std::uint16_t*>(out + 256);
  const auto* end = reinterpret_cast<const std::uint16_t*>(p.data + 16 * std::int64_t{p.offsets[record + 1]});
  for (int tile = 0; tile < 2; ++tile) {
    std::uint32_t word = 0;
    for (int half = 0; half < 8; ++half) {
      std::uint16_t own[4];
      int count = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const TilePosition at = tile_position(tile, half, lane, e);
        const std::uint64_t theirs = __shfl_sync(0xffffffffU, mask, at.row);
        const std::int64_t begin = __shfl_sync(0xffffffffU, first, at.row);
        if ((theirs >> at.col & 1) == 0) continue;
        own[count++] = p.values[begin + __popcll(theirs & ((std::uint64_t{1} << at.col) - 1))];
        word |= 1U << (4 * half + e);
      }
      int through = count;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, through, distance);
        if (lane >= distance) through += other;
      }
      for (int i = 0; i < count; ++i) values[through - count + i] = own[i];
      values += __shfl_sync(0xffffffffU, through, 31);
    }
    reinterpret_cast<std::uint32_t*>(out)[32 * tile + lane] = word;
  }
  if (values + lane < end) values[lane] = 0;  // padding: fewer than 8 values
}

}  // namespace gossamer::cuda
