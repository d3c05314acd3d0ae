// How one 16 x 64 tile of a record becomes mma A fragments, kFragments of 32 bytes of k, in as many steps that leave room between them: a
// warp finds its way through the next tile while it loads the values of this one.
//
//   prepare                        the warp's scratch, once
//   open, step 0..                 where the lane's values lie
//   begin, load 0.., assemble 0.., end
//                                  the fragments, in order; a fragment, kWords registers, may be loaded before the one before is assembled
//
// All 32 lanes take part. Tiles of 8-bit values: spmm_byte_decoders.cuh. Formats: sparse/FORMAT.md.
#pragma once

#include <cstdint>

#include "device/ptx.cuh"

namespace gossamer {

// Per tile one SWAR count of the mask, two byte-packed warp scans for the lanes' offsets, and per pair of weights an address by dp4a, two
// unconditional 16-bit loads and one byte-permute whose selector places {none, low, high, both} and zeros.
class BitmapTile {
 public:
  static constexpr int kFragments = 4, kWords = 8;
  static constexpr int kScratchBytes = 0;  // per warp
  static constexpr int kOverread = 4;      // bytes that may be loaded, unused, beyond a record

  __device__ static __forceinline__ void prepare(std::uint32_t /*scratch*/, int /*lane*/) {}
  __device__ __forceinline__ void open(std::uint32_t record, int lane, int tile) {
    mask_ = ptx::load_shared_u32(record + tile * 128 + lane * 4);
    values_ = record + 256;
    if (tile == 1) values_ += 2 * ptx::warp_sum(__popc(ptx::load_shared_u32(record + lane * 4)));
  }
  __device__ __forceinline__ void step(int i) {
    if (i == 0) {
      // Counts: 2-bit fields per pair, then 4-bit per half fragment, then one byte per fragment for each half.
      pairs_ = mask_ - ((mask_ >> 1) & 0x55555555U);
      const std::uint32_t nibbles = (pairs_ & 0x33333333U) + ((pairs_ >> 2) & 0x33333333U);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        start_[half][0] = start_[half][1] = (nibbles >> (4 * half)) & 0x0f0f0f0fU;
        total_[half] = ptx::warp_sum(start_[half][0]);
      }
    }
    if (i < 3) {
      // Inclusive scans over lanes, two distances a step: at most 32 * 4, so bytes do not overflow.
#pragma unroll
      for (int distance = 1 << (2 * i); distance < 32 && distance <= 2 << (2 * i); distance *= 2) {
#pragma unroll
        for (int half = 0; half < 2; ++half) start_[half][0] = ptx::scan_step(start_[half][0], distance);
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // exclusive: of the first pair, then of the second
        start_[half][0] -= start_[half][1];
        start_[half][1] = start_[half][0] + ((pairs_ >> (4 * half)) & 0x03030303U);
      }
    }
  }
  __device__ __forceinline__ void begin(std::uint32_t /*scratch*/, int /*lane*/) {}
  __device__ __forceinline__ void load(int f, std::uint32_t (&values)[8], std::uint32_t /*scratch*/, int /*lane*/) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const std::uint32_t address = ptx::dot_bytes(start_[half][pair], 2U << (8 * f), values_);
        values[4 * half + 2 * pair] = ptx::load_shared_u16(address);
        values[4 * half + 2 * pair + 1] = ptx::load_shared_u16_next(address);
      }
      values_ = ptx::dot_bytes(total_[half], 2U << (8 * f), values_);
    }
  }
  __device__ __forceinline__ void assemble(int f, const std::uint32_t (&values)[8], std::uint32_t (&a)[4],
                                           std::uint32_t /*scratch*/) const {
    const std::uint32_t low = 0x10221022U;
    constexpr std::uint32_t kHigh = 0x54102222U;
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // [half][pair]
      const std::uint32_t bits = (mask_ >> (2 * i)) & 0x03030303U;
      const std::uint32_t index = bits * 0x11U + 0x40404040U;  // per byte: low nibble picks from `low`, high nibble from kHigh
      const std::uint32_t both = ptx::byte_permute(low, kHigh, f < 2 ? index : index >> 16);  // selectors of two fragments
      a[i] = ptx::byte_permute(values[2 * i], values[2 * i + 1], f % 2 == 0 ? both : both >> 16);
    }
  }
  __device__ __forceinline__ void end(std::uint32_t /*scratch*/, int /*lane*/) {}

 private:
  std::uint32_t mask_, pairs_, values_;  // values_: shared address of the next half's first value
  std::uint32_t start_[2][2], total_[2];
};

// Scatters the non-zeros into a zeroed tile in fragment order, reads it as fragments, zeroes it again.
class TiledCslTile {
 public:
  static constexpr int kFragments = 4, kWords = 8;
  static constexpr int kScratchBytes = 2048;  // one 16 x 64 tile of halfwords; all zero between tiles
  static constexpr int kOverread = 512;

  __device__ static __forceinline__ void prepare(std::uint32_t scratch, int lane) {
    for (int i = lane * 16; i < kScratchBytes; i += 512) ptx::zero_shared_16bytes(scratch + i);
  }
  __device__ __forceinline__ void open(std::uint32_t record, int lane, int tile) {
    const std::uint32_t before = tile == 0 ? 0 : ptx::load_shared_u32(record);
    count_ = static_cast<int>(ptx::load_shared_u32(record + 4 * tile));
    words_ = record + 16 + lane * 4 + 4 * before;
  }
  __device__ __forceinline__ void step(int /*i*/) {}
  __device__ __forceinline__ void begin(std::uint32_t scratch, int lane) {
    int left = count_ - lane;  // words from this lane's first on, in steps of 32
#pragma unroll 1
    for (std::uint32_t at = words_;; at += 512) {
      std::uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = ptx::load_shared_u32(at + 128 * i);  // may run past the record: unused then
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        address_[i] = ptx::dot_halves(word[i], 0x0200U, scratch);  // scratch + 2 * location
        if (left > 32 * i) ptx::store_shared_u16(address_[i], word[i]);
      }
      if (left + lane <= 128) break;
      left -= 128;
    }
    left_ = left;
    __syncwarp();
  }
  __device__ __forceinline__ void load(int f, std::uint32_t (&values)[8], std::uint32_t scratch, int lane) const {
    ptx::load_shared_u32x4(*reinterpret_cast<std::uint32_t (*)[4]>(&values), scratch + f * 512 + lane * 16);
  }
  __device__ __forceinline__ void assemble(int /*f*/, const std::uint32_t (&values)[8], std::uint32_t (&a)[4],
                                           std::uint32_t /*scratch*/) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = values[i];
  }
  __device__ __forceinline__ void end(std::uint32_t scratch, int lane) const {
    __syncwarp();
    if (count_ <= 128) {  // the addresses are still in registers
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (left_ > 32 * i) ptx::store_shared_u16(address_[i], 0);
      }
    } else {
#pragma unroll
      for (int f = 0; f < 4; ++f) ptx::zero_shared_16bytes(scratch + f * 512 + lane * 16);
    }
    __syncwarp();
  }

 private:
  std::uint32_t words_, address_[4];
  int count_, left_;
};

}  // namespace gossamer
