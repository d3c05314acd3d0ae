// expand.cuh for 2:4 records: their fragments do not hold 16 contiguous bytes of a row, so a record is put together in shared memory first.
#pragma once

#include "kernels/expand_params.h"
#include "kernels/record_ring.cuh"
#include "kernels/two_four_decoder.cuh"

namespace gossamer {

struct ExpandTwoFourLayout {  // byte offsets in dynamic shared memory
  static constexpr int kWarps = 8;
  static constexpr int kRowBytes = 144;  // 64 values and 16 bytes, so that neighbouring rows lie in different banks
  static constexpr int kTiles = (kWarps * RecordRing::kBarrierBytes + 127) / 128 * 128;
  static constexpr int kBlocks = kTiles + kWarps * TwoFourDecoder::kScratchBytes;
  static constexpr int kRings = kBlocks + kWarps * 32 * kRowBytes;
  static constexpr int total(int slot_bytes) { return kRings + kWarps * 2 * slot_bytes + TwoFourDecoder::kOverread; }
};

// Puts a lane's values at their places in the block (shared address). Each element is written by one lane alone: first what the slots hold,
// empty ones as zeros, then the rest.
struct PlaceValues {
  std::uint32_t block;
  int lane;

  template <int kFragment>
  __device__ __forceinline__ void slots(int tile, const std::uint32_t (&a)[4], std::uint32_t metadata) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t word = __shfl_sync(0xffffffff, metadata, lane / 4 * 4 + 2 * kFragment + half);  // TwoFourGroup::metadata_word
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const std::uint32_t code = word >> (16 * pair + 4 * (lane % 4)), value = a[2 * half + pair];
        const std::uint32_t to = place(tile, kFragment, half, pair);
        ptx::store_shared_u16(to + position(code & 3), value & 0xffff);
        ptx::store_shared_u16(to + position(code >> 2 & 3), value >> 16);
      }
    }
  }
  __device__ __forceinline__ void rest(int tile, int fragment, const std::uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t to = place(tile, fragment, i / 2, i % 2);
      if ((a[i] & 0xffff) != 0) ptx::store_shared_u16(to + position(2), a[i] & 0xffff);
      if (a[i] >> 16 != 0) ptx::store_shared_u16(to + position(3), a[i] >> 16);
    }
  }

 private:
  // TwoFourGroup::row() and column(0), and what column(j) adds, in bytes.
  __device__ __forceinline__ std::uint32_t place(int tile, int fragment, int half, int pair) const {
    const int row = 16 * tile + lane / 4 + 8 * pair, column = 32 * fragment + 16 * (lane % 2) + 2 * (lane % 4 / 2) + 4 * half;
    return block + row * ExpandTwoFourLayout::kRowBytes + 2 * column;
  }
  __device__ static __forceinline__ std::uint32_t position(std::uint32_t j) { return 2 * (j % 2) + 16 * (j / 2); }
};

__global__ void __launch_bounds__(ExpandTwoFourLayout::kWarps * 32) expand_two_four_kernel(const __grid_constant__ ExpandParams p) {
  using Layout = ExpandTwoFourLayout;
  extern __shared__ __align__(128) std::uint8_t shared[];
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  const std::uint32_t base = ptx::shared_address(shared), scratch = base + Layout::kTiles + warp * TwoFourDecoder::kScratchBytes;
  const std::uint32_t block = base + Layout::kBlocks + warp * 32 * Layout::kRowBytes;
  RecordRing ring(base + Layout::kRings + warp * 2 * p.slot_bytes, p.slot_bytes, base + warp * RecordRing::kBarrierBytes, lane);
  for (int i = lane * 16; i < TwoFourDecoder::kScratchBytes; i += 512) ptx::zero_shared_16bytes(scratch + i);
  __syncwarp();

  const std::int64_t records = std::int64_t{p.row_blocks} * p.records, workers = std::int64_t{gridDim.x} * Layout::kWarps;
  const std::int64_t worker = std::int64_t{blockIdx.x} * Layout::kWarps + warp;
  const int begin = static_cast<int>(records * worker / workers), end = static_cast<int>(records * (worker + 1) / workers);
  const auto push = [&](int record) {
    const std::uint32_t first = record < end ? __ldg(p.offsets + record) : 0, last = record < end ? __ldg(p.offsets + record + 1) : 0;
    ring.push(p.data + std::size_t{first} * 16, (last - first) * 16);
  };
  for (int s = 0; s < 2; ++s) {
    push(begin + s);
    ring.advance();
  }
  ring.start();
  for (int record = begin; record < end; ++record) {
#pragma unroll
    for (int i = 0; i < 8; ++i) ptx::zero_shared_16bytes(block + (4 * i + lane / 8) * Layout::kRowBytes + lane % 8 * 16);
    __syncwarp();
    TwoFourDecoder::decode(ring.front(), scratch, lane, PlaceValues{block, lane});
    __syncwarp();  // the block is there, and the record's slot may be written again
    push(record + 2);
    ring.advance();
    const int first_row = record / p.records * 32 + lane / 8, column = record % p.records * 64 + lane % 8 * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = first_row + 4 * i;
      const uint4 v = ptx::load_shared_16(block + (4 * i + lane / 8) * Layout::kRowBytes + lane % 8 * 16);
      if (row < p.m && column < p.ldw) *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(p.out) + row * p.ldw + column) = v;
    }
    __syncwarp();  // the block has been read
  }
}

}  // namespace gossamer
