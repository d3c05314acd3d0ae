// Bitmap records of 8-bit values (sparse/FORMAT.md) as mma A fragments, whole (as in spmm_decoders.cuh) or a tile in steps
// (tile_steps.cuh). A lane's values of one fragment, at most eight, are contiguous: three aligned loads and funnel shifts bring them to the
// front of two registers, and a byte-permute for each of the two rows spreads them over four columns, zeros between them.
#pragma once

#include <cstdint>
#include <type_traits>

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

  TableByteSelectors() = default;
  __device__ __forceinline__ explicit TableByteSelectors(std::uint32_t mask) {
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
  __device__ __forceinline__ std::uint32_t selector(int f, int half, std::uint32_t scratch) const {
    return ptx::load_shared_u32(scratch + ptx::dot_bytes(index_[half], 1U << (8 * f), 0));  // scratch: in the load's address, uniform
  }

 private:
  std::uint32_t first_row_, count_, index_[2];
};

// The selector is a linear function of the mask bits when they are a nibble apart: element i takes the byte that its predecessors count,
// or, where absent, one of the zero bytes 4 and up. Masks: interleaved_mask.
struct ArithmeticByteSelectors {
  static constexpr int kScratchBytes = 0;
  __device__ static __forceinline__ void prepare(std::uint32_t /*scratch*/, int /*lane*/) {}

  ArithmeticByteSelectors() = default;
  __device__ __forceinline__ explicit ArithmeticByteSelectors(std::uint32_t mask) {
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
  __device__ __forceinline__ std::uint32_t selector(int f, int half, std::uint32_t /*scratch*/) const {
    return (half == 0 ? bits_[f] : bits_[f] >> 16) * 0x110cU + 0x4444U;  // the upper 16 bits do not matter
  }

 private:
  std::uint32_t bits_[4], sums_[4], count_;
};

// One tile, as the steps of tile_steps.cuh: two fragments of m16 x k32, each of two of the record's (here: parts) that lie 16 columns apart
// in mma's order and side by side in the weight.
template <class Selectors>
class ByteTile {
 public:
  static constexpr int kFragments = 2, kWords = 6;
  static constexpr int kScratchBytes = Selectors::kScratchBytes, kOverread = 4;

  __device__ static __forceinline__ void prepare(std::uint32_t scratch, int lane) { Selectors::prepare(scratch, lane); }

  __device__ __forceinline__ void open(std::uint32_t record, int lane, int tile) {
    std::uint32_t values = record + 256;
    // Neither decoding's order of bits matters for their number.
    if (tile == 1) values += ptx::warp_sum(__popc(ptx::load_shared_u32(record + lane * 4)));
    open_at(ptx::load_shared_u32(record + tile * 128 + lane * 4), values);
  }
  __device__ __forceinline__ void open_at(std::uint32_t mask, std::uint32_t values) {
    mask_ = mask;
    values_ = values;
  }
  __device__ __forceinline__ void step(int i) {
    if (i == 0) {
      selectors_ = Selectors(mask_);
      // A part may have 256 values, one too many for a byte: other lanes' values are at most 31 * 8.
      others_ = ptx::warp_sum(selectors_.count()) - selectors_.count();
      before_ = selectors_.count();
    }
#pragma unroll
    for (int distance = i == 0 ? 1 : 4; distance < (i == 0 ? 4 : 32); distance *= 2) before_ = ptx::scan_step(before_, distance);
    if (i == 1) before_ -= selectors_.count();
  }

  __device__ __forceinline__ void begin(std::uint32_t /*scratch*/, int /*lane*/) {}
  __device__ __forceinline__ void load(int f, std::uint32_t (&values)[kWords], std::uint32_t /*scratch*/, int /*lane*/) {
#pragma unroll
    for (int i = 0; i < 2; ++i) load_part(2 * f + i, *reinterpret_cast<std::uint32_t (*)[3]>(values + 3 * i));
  }
  __device__ __forceinline__ void assemble(int f, const std::uint32_t (&values)[kWords], std::uint32_t (&a)[4],
                                           std::uint32_t scratch) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      assemble_part(2 * f + i, *reinterpret_cast<const std::uint32_t (*)[3]>(values + 3 * i), scratch, a[2 * i], a[2 * i + 1]);
    }
  }
  __device__ __forceinline__ void end(std::uint32_t /*scratch*/, int /*lane*/) {}

  __device__ __forceinline__ void load_part(int part, std::uint32_t (&words)[3]) {
    address_[part] = ptx::dot_bytes(before_, 1U << (8 * part), values_);
    ptx::load_shared_u32x3(words, address_[part] & ~3U);
    values_ = ptx::dot_bytes(others_, 1U << (8 * part), ptx::dot_bytes(selectors_.count(), 1U << (8 * part), values_));
  }
  // Four values of row g, four of row g + 8.
  __device__ __forceinline__ void assemble_part(int part, const std::uint32_t (&words)[3], std::uint32_t scratch, std::uint32_t& row,
                                                std::uint32_t& row_8) const {
    const std::uint32_t shift = 8 * address_[part];
    const std::uint32_t low = ptx::funnel_shift(words[0], words[1], shift), high = ptx::funnel_shift(words[1], words[2], shift);
    row = ptx::byte_permute(low, 0, selectors_.selector(part, 0, scratch));
    const std::uint32_t rest = ptx::funnel_shift_clamped(low, high, selectors_.first_row_bits(part));
    row_8 = ptx::byte_permute(rest, 0, selectors_.selector(part, 1, scratch));
  }
  // Behind the parts loaded so far.
  __device__ __forceinline__ std::uint32_t values() const { return values_; }

 private:
  std::uint32_t mask_, values_, before_, others_;
  std::uint32_t address_[4];
  Selectors selectors_;
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
    for (int i = 0; i < 2; ++i) {
      ByteTile<Selectors> tile;
      tile.open_at(ptx::load_shared_u32(record + i * 128 + lane * 4), values);
      tile.step(0);
      tile.step(1);
      std::uint32_t even[2] = {};
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        std::uint32_t words[3], row, row_8;
        tile.load_part(f, words);
        tile.assemble_part(f, words, scratch, row, row_8);
        if constexpr (kProduct != ByteProduct::i8_i8) {
          std::uint32_t a[4];
          widen(row, a[0], a[2]);
          widen(row_8, a[1], a[3]);
          use(i, f, a);
        } else if (f % 2 == 0) {
          even[0] = row;
          even[1] = row_8;
        } else {
          const std::uint32_t a[4] = {even[0], even[1], row, row_8};
          use(i, f / 2, a);
        }
      }
      values = tile.values();
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
};

template <ByteDecoding kDecoding>
using SelectorsOf = std::conditional_t<kDecoding == ByteDecoding::table, TableByteSelectors, ArithmeticByteSelectors>;

template <ByteProduct kProduct, ByteDecoding kDecoding>
struct ByteDecoderOf {
  using type = ByteBitmapDecoder<kProduct, SelectorsOf<kDecoding>>;
};

}  // namespace gossamer
