// How a 2:4 record in shared memory becomes operands of mma.sp: the counterpart of spmm_decoders.cuh for TileFormat::two_four.
#pragma once

#include <cstdint>

#include "device/ptx.cuh"

namespace gossamer {

// Half as many registers a weight as the bitmap's decoder fills, by the same means: one byte-packed warp scan a tile, and per register an
// address by dp4a, two unconditional 16-bit loads and one byte-permute. What does not fit 2:4 is scattered as in Tiled-CSL, into fragments
// that have only the last two of each four columns.
struct TwoFourDecoder {
  static constexpr int kScratchBytes = 2048;                   // per warp: the rest's fragments, all zero between calls
  static constexpr int kOverread = 128;                        // bytes that may be loaded, unused, beyond a record
  static constexpr std::uint32_t kRestMetadata = 0xEEEEEEEEU;  // positions 2 and 3 of every group

  // Calls use.slots<fragment>(tile, a, metadata) and then, where there is a rest, use.rest(tile, fragment, a), for tiles and fragments
  // 0, 1.
  template <typename Use>
  __device__ static __forceinline__ void decode(std::uint32_t record, std::uint32_t scratch, int lane, Use&& use) {
    const std::uint32_t slots = ptx::load_shared_u32(record + 256 + lane * 4);
    const std::uint32_t rest = ptx::load_shared_u32(record + 384);
    const std::uint32_t word = ptx::load_shared_u32(record + 388 + lane * 4);
    const std::uint32_t address = ptx::dot_halves(word, 0x0200U, scratch);  // scratch + 2 * location
    const bool has_word = static_cast<std::uint32_t>(lane) < rest;
    if (has_word) ptx::store_shared_u16(address, word);
    if (rest > 32) {
#pragma unroll 1
      for (std::uint32_t i = lane + 32; i < rest; i += 32) {
        const std::uint32_t more = ptx::load_shared_u32(record + 388 + i * 4);
        ptx::store_shared_u16(ptx::dot_halves(more, 0x0200U, scratch), more);
      }
    }
    decode_slots(record, record + 388 + 4 * rest, slots, lane, use);
    if (rest == 0) return;
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int fragment = 0; fragment < 2; ++fragment) {
        std::uint32_t a[4];
        ptx::load_shared_u32x4(a, scratch + (2 * tile + fragment) * 512 + lane * 16);
        use.rest(tile, fragment, a);
      }
    }
    __syncwarp();
    if (rest <= 32) {
      if (has_word) ptx::store_shared_u16(address, 0);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) ptx::zero_shared_16bytes(scratch + i * 512 + lane * 16);
    }
    __syncwarp();
  }

 private:
  // values: shared address of the record's first value. slots: byte 2 fragment + half holds four bits of tile 0, then four of tile 1.
  template <typename Use>
  __device__ static __forceinline__ void decode_slots(std::uint32_t record, std::uint32_t values, std::uint32_t slots, int lane,
                                                      Use&& use) {
    const std::uint32_t pairs = slots - ((slots >> 1) & 0x55555555U);                   // filled slots of each register
    const std::uint32_t halves = (pairs & 0x33333333U) + ((pairs >> 2) & 0x33333333U);  // of each half fragment
    const std::uint32_t low = 0x10221022U;
    constexpr std::uint32_t kHigh = 0x54102222U;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const std::uint32_t metadata = ptx::load_shared_u32(record + tile * 128 + lane * 4);
      const std::uint32_t count = (halves >> (4 * tile)) & 0x0f0f0f0fU;
      const std::uint32_t total = ptx::warp_sum(count);
      const std::uint32_t before = ptx::warp_inclusive_scan(count) - count;  // at most 31 * 4: bytes do not overflow
      const std::uint32_t start[2] = {before, before + ((pairs >> (4 * tile)) & 0x03030303U)};
      std::uint32_t selector[2][2];  // [pair][fragment], 16 bits per half
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const std::uint32_t index = ((slots >> (4 * tile + 2 * pair)) & 0x03030303U) * 0x11U + 0x40404040U;
        selector[pair][0] = ptx::byte_permute(low, kHigh, index);
        selector[pair][1] = ptx::byte_permute(low, kHigh, index >> 16);
      }
      const auto expand = [&](std::uint32_t (&a)[4], int fragment) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const std::uint32_t byte = 2U << (8 * (2 * fragment + half));
#pragma unroll
          for (int pair = 0; pair < 2; ++pair) {
            const std::uint32_t at = ptx::dot_bytes(start[pair], byte, values);
            const std::uint32_t first = ptx::load_shared_u16(at), second = ptx::load_shared_u16_next(at);
            const std::uint32_t both = selector[pair][fragment];
            a[2 * half + pair] = ptx::byte_permute(first, second, half == 0 ? both : both >> 16);
          }
          values = ptx::dot_bytes(total, byte, values);
        }
      };
      std::uint32_t a[4];
      expand(a, 0);
      use.template slots<0>(tile, a, metadata);
      expand(a, 1);
      use.template slots<1>(tile, a, metadata);
    }
  }
};

}  // namespace gossamer
