// Bitmap records of 8-bit values (sparse/FORMAT.md) as mma A fragments; the interface is that of spmm_decoders.cuh. A lane's values of one
// fragment, at most eight, are contiguous: three aligned loads and funnel shifts bring them to the front of two registers, and a
// byte-permute for each of the two rows spreads them over four columns, zeros between them.
#pragma once

#include <cstdint>

#include "device/ptx.cuh"
#include "device/ptx_bytes.cuh"
#include "kernels/byte_product.h"

namespace gossamer {

// The selector of a row's mask nibble comes from a table in shared memory.
struct TableByteSelectors {
  static constexpr int kScratchBytes = 64;  // per warp: u32 selector[16]

  __device__ static __forceinline__ void prepare(std::uint32_t scratch, int lane) {
    if (lane >= 16) return;
    std::uint32_t selector = 0, count = 0;
    for (int i = 0; i < 4; ++i) selector |= (lane >> i & 1 ? count++ : 4U) << (4 * i);
    ptx::store_shared_u32(scratch + 4 * lane, selector);
  }

  __device__ __forceinline__ TableByteSelectors(std::uint32_t mask, std::uint32_t scratch) : table_(scratch) {
    const std::uint32_t pairs = mask - ((mask >> 1) & 0x55555555U);
    const std::uint32_t nibbles = (pairs & 0x33333333U) + ((pairs >> 2) & 0x33333333U);
    first_row_ = nibbles & 0x0f0f0f0fU;
    count_ = (nibbles + (nibbles >> 4)) & 0x0f0f0f0fU;
    index_[0] = mask << 2 & 0x3c3c3c3cU;
    index_[1] = mask >> 2 & 0x3c3c3c3cU;
  }
  // One byte per fragment: how many values the lane has.
  __device__ __forceinline__ std::uint32_t count() const { return count_; }
  // Eight times the values of row g.
  __device__ __forceinline__ std::uint32_t first_row_bits(int f) const { return ptx::dot_bytes(first_row_, 8U << (8 * f), 0); }
  __device__ __forceinline__ std::uint32_t selector(int f, int half) const {
    return ptx::load_shared_u32(ptx::dot_bytes(index_[half], 1U << (8 * f), table_));
  }

 private:
  std::uint32_t table_, first_row_, count_, index_[2];
};

// The selector is a linear function of the mask bits when they are a nibble apart: element i takes the byte that its predecessors count,
// or, where absent, one of the zero bytes 4 and up. Masks: interleaved_mask.
struct ArithmeticByteSelectors {
  static constexpr int kScratchBytes = 0;
  __device__ static __forceinline__ void prepare(std::uint32_t /*scratch*/, int /*lane*/) {}

  __device__ __forceinline__ ArithmeticByteSelectors(std::uint32_t mask, std::uint32_t /*scratch*/) {
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      bits_[f] = mask >> f & 0x11111111U;
      sums_[f] = bits_[f] * 0x11111111U;  // inclusive prefix sums, one a nibble
    }
    const std::uint32_t top =
        ptx::byte_permute(ptx::byte_permute(sums_[0], sums_[1], 0x73U), ptx::byte_permute(sums_[2], sums_[3], 0x73U), 0x5410U);
    count_ = top >> 4 & 0x0f0f0f0fU;
  }
  __device__ __forceinline__ std::uint32_t count() const { return count_; }
  __device__ __forceinline__ std::uint32_t first_row_bits(int f) const { return sums_[f] >> 9 & 0x38U; }
  __device__ __forceinline__ std::uint32_t selector(int f, int half) const {
    return (half == 0 ? bits_[f] : bits_[f] >> 16) * 0x110cU + 0x4444U;  // the upper 16 bits do not matter
  }

 private:
  std::uint32_t bits_[4], sums_[4], count_;
};

template <ByteProduct kProduct, class Selectors>
struct ByteBitmapDecoder {
  static constexpr int kScratchBytes = Selectors::kScratchBytes;
  static constexpr int kOverread = 4;

  __device__ static __forceinline__ void prepare(std::uint32_t scratch, int lane) { Selectors::prepare(scratch, lane); }

  // f: fragments of 16 columns, with i8_i8 of 32.
  template <typename Use>
  __device__ static __forceinline__ void decode(std::uint32_t record, std::uint32_t scratch, int lane, const Use& use) {
    std::uint32_t values = record + 256;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const std::uint32_t mask = ptx::load_shared_u32(record + tile * 128 + lane * 4);
      std::uint32_t even[2] = {};
      decode_tile(mask, values, scratch, [&](int f, std::uint32_t row, std::uint32_t row_8) {
        if constexpr (kProduct != ByteProduct::i8_i8) {
          std::uint32_t a[4];
          widen(row, a[0], a[2]);
          widen(row_8, a[1], a[3]);
          use(tile, f, a);
        } else if (f % 2 == 0) {
          even[0] = row;
          even[1] = row_8;
        } else {
          const std::uint32_t a[4] = {even[0], even[1], row, row_8};
          use(tile, f / 2, a);
        }
      });
    }
  }

 private:
  __device__ static __forceinline__ void widen(std::uint32_t bytes, std::uint32_t& low, std::uint32_t& high) {
    if constexpr (kProduct == ByteProduct::e4m3_f16) {
      ptx::e4m3_to_f16(bytes, low, high);
    } else {  // the f16 0x6400 + u is 1024 + u, and u here 128 + the value
      const std::uint32_t biased = bytes ^ 0x80808080U;
      low = ptx::add_f16x2(ptx::byte_permute(biased, 0x64646464U, 0x4140U), 0xe480e480U);
      high = ptx::add_f16x2(ptx::byte_permute(biased, 0x64646464U, 0x4342U), 0xe480e480U);
    }
  }

  // use(f, four values of row g, four of row g + 8) for the fragments of a tile; values moves behind the tile's last.
  template <typename Use>
  __device__ static __forceinline__ void decode_tile(std::uint32_t mask, std::uint32_t& values, std::uint32_t scratch, const Use& use) {
    const Selectors selectors(mask, scratch);
    // A fragment may have 256 values, one too many for a byte: other lanes' values are at most 31 * 8.
    const std::uint32_t count = selectors.count(), others = ptx::warp_sum(count) - count;
    const std::uint32_t before = ptx::warp_inclusive_scan(count) - count;
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      const std::uint32_t address = ptx::dot_bytes(before, 1U << (8 * f), values);
      std::uint32_t words[3];
      ptx::load_shared_u32x3(words, address & ~3U);
      const std::uint32_t low = ptx::funnel_shift(words[0], words[1], 8 * address),
                          high = ptx::funnel_shift(words[1], words[2], 8 * address);
      const std::uint32_t rest = ptx::funnel_shift_clamped(low, high, selectors.first_row_bits(f));
      use(f, ptx::byte_permute(low, 0, selectors.selector(f, 0)), ptx::byte_permute(rest, 0, selectors.selector(f, 1)));
      values = ptx::dot_bytes(others, 1U << (8 * f), ptx::dot_bytes(count, 1U << (8 * f), values));
    }
  }
};

template <ByteProduct kProduct, ByteDecoding kDecoding>
struct ByteDecoderOf {
  using type = ByteBitmapDecoder<kProduct, TableByteSelectors>;
};
template <ByteProduct kProduct>
struct ByteDecoderOf<kProduct, ByteDecoding::arithmetic> {
  using type = ByteBitmapDecoder<kProduct, ArithmeticByteSelectors>;
};

}  // namespace gossamer
