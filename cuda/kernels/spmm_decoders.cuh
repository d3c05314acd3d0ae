// How a record in shared memory becomes mma A fragments, one decoder per tile format. decode() calls use(tile, f, a) for tiles 0 and 1 and
// their fragments f = 0..3, in order; decode_one() calls ready() and then use(f, a) for one tile. All 32 lanes take part.
#pragma once

#include <cstdint>

#include "device/ptx.cuh"

namespace gossamer {

// Bitmap records. Per tile one SWAR count of the mask, two byte-packed warp scans for the lanes' offsets, and per pair of weights an
// address by dp4a, two unconditional 16-bit loads and one byte-permute whose selector places {none, low, high, both} and zeros.
struct BitmapDecoder {
  static constexpr int kScratchBytes = 0;  // per warp
  static constexpr int kOverread = 4;      // bytes that may be loaded, unused, beyond a record

  template <typename Use>
  __device__ static __forceinline__ void decode(std::uint32_t record, std::uint32_t /*scratch*/, int lane, const Use& use) {
    std::uint32_t values = record + 256;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const std::uint32_t mask = ptx::load_shared_u32(record + tile * 128 + lane * 4);
      decode_tile(mask, values, [] {}, [&](int f, const std::uint32_t (&a)[4]) { use(tile, f, a); });
    }
  }

  template <typename Ready, typename Use>
  __device__ static __forceinline__ void decode_one(std::uint32_t record, std::uint32_t /*scratch*/, int lane, int tile, const Ready& ready,
                                                    const Use& use) {
    std::uint32_t values = record + 256;
    if (tile == 1) values += 2 * ptx::warp_sum(__popc(ptx::load_shared_u32(record + lane * 4)));
    decode_tile(ptx::load_shared_u32(record + tile * 128 + lane * 4), values, ready, use);
  }

 private:
  // values: shared address of the tile's first value; moved behind its last.
  template <typename Ready, typename Use>
  __device__ static __forceinline__ void decode_tile(std::uint32_t mask, std::uint32_t& values, const Ready& ready, const Use& use) {
    // Counts: 2-bit fields per pair, then 4-bit per half fragment, then one byte per fragment for each half.
    const std::uint32_t pairs = mask - ((mask >> 1) & 0x55555555U);
    const std::uint32_t nibbles = (pairs & 0x33333333U) + ((pairs >> 2) & 0x33333333U);
    const std::uint32_t count[2] = {nibbles & 0x0f0f0f0fU, (nibbles >> 4) & 0x0f0f0f0fU};
    // Exclusive prefixes over lanes: at most 31 * 4, so bytes do not overflow.
    const std::uint32_t total[2] = {ptx::warp_sum(count[0]), ptx::warp_sum(count[1])};
    const std::uint32_t before[2] = {ptx::warp_inclusive_scan(count[0]) - count[0], ptx::warp_inclusive_scan(count[1]) - count[1]};
    const std::uint32_t start[2][2] = {{before[0], before[0] + (pairs & 0x03030303U)},
                                       {before[1], before[1] + ((pairs >> 4) & 0x03030303U)}};
    const std::uint32_t low = 0x10221022U;
    constexpr std::uint32_t kHigh = 0x54102222U;
    std::uint32_t selector[2][2][2];  // [half][pair][fragment / 2], 16 bits per fragment
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const std::uint32_t bits = (mask >> (4 * half + 2 * pair)) & 0x03030303U;
        const std::uint32_t index = bits * 0x11U + 0x40404040U;  // per byte: low nibble picks from `low`, high nibble from kHigh
        selector[half][pair][0] = ptx::byte_permute(low, kHigh, index);
        selector[half][pair][1] = ptx::byte_permute(low, kHigh, index >> 16);
      }
    }
    ready();
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      std::uint32_t a[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const std::uint32_t address = ptx::dot_bytes(start[half][pair], 2U << (8 * f), values);
          const std::uint32_t first = ptx::load_shared_u16(address), second = ptx::load_shared_u16_next(address);
          const std::uint32_t both = selector[half][pair][f / 2];
          a[2 * half + pair] = ptx::byte_permute(first, second, f % 2 == 0 ? both : both >> 16);
        }
        values = ptx::dot_bytes(total[half], 2U << (8 * f), values);
      }
      use(f, a);
    }
  }
};

// Tiled-CSL records: scatter the non-zeros into a zeroed tile in fragment order, read it as fragments, zero it again.
struct TiledCslDecoder {
  static constexpr int kScratchBytes = 2048;  // one 16 x 64 tile of halfwords; all zero between calls
  static constexpr int kOverread = 512;

  template <typename Use>
  __device__ static __forceinline__ void decode(std::uint32_t record, std::uint32_t scratch, int lane, const Use& use) {
    std::uint32_t words = record + 16 + lane * 4;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int count = static_cast<int>(ptx::load_shared_u32(record + 4 * tile));
      decode_tile(words, count, scratch, lane, [] {}, [&](int f, const std::uint32_t (&a)[4]) { use(tile, f, a); });
      words += 4 * count;
    }
  }

  template <typename Ready, typename Use>
  __device__ static __forceinline__ void decode_one(std::uint32_t record, std::uint32_t scratch, int lane, int tile, const Ready& ready,
                                                    const Use& use) {
    const int before = tile == 0 ? 0 : static_cast<int>(ptx::load_shared_u32(record));
    const int count = static_cast<int>(ptx::load_shared_u32(record + 4 * tile));
    decode_tile(record + 16 + lane * 4 + 4 * before, count, scratch, lane, ready, use);
  }

 private:
  // words: shared address of this lane's first of `count` words.
  template <typename Ready, typename Use>
  __device__ static __forceinline__ void decode_tile(std::uint32_t words, int count, std::uint32_t scratch, int lane, const Ready& ready,
                                                     const Use& use) {
    std::uint32_t address[4];
    int left = count - lane;  // words from this lane's first on, in steps of 32
#pragma unroll 1
    for (std::uint32_t at = words;; at += 512) {
      std::uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = ptx::load_shared_u32(at + 128 * i);  // may run past the record: unused then
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        address[i] = ptx::dot_halves(word[i], 0x0200U, scratch);  // scratch + 2 * location
        if (left > 32 * i) ptx::store_shared_u16(address[i], word[i]);
      }
      if (left + lane <= 128) break;
      left -= 128;
    }
    __syncwarp();
    ready();
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      std::uint32_t a[4];
      ptx::load_shared_u32x4(a, scratch + f * 512 + lane * 16);
      use(f, a);
    }
    __syncwarp();
    if (count <= 128) {  // the addresses are still in registers
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (left > 32 * i) ptx::store_shared_u16(address[i], 0);
      }
    } else {
#pragma unroll
      for (int f = 0; f < 4; ++f) ptx::zero_shared_16bytes(scratch + f * 512 + lane * 16);
    }
    __syncwarp();
  }
};

}  // namespace gossamer
