// Which kernel multiplies 8-bit weights; shared by host and device code.
#pragma once

#include <cstdint>

namespace gossamer {

// What the bytes are, and as what they meet the activations.
enum class ByteProduct : std::int32_t {
  e4m3_f16,  // widened to f16, exactly; times f16, fp32 sums
  i8_f16,    // likewise
  i8_i8,     // times i8 with a scale per token, s32 sums
  e4m3_e4m3  // times e4m3 with a scale per token, fp32 sums; by wgmma alone
};

// How a decoder finds out which byte goes to which column: from a table of 16 selectors in shared memory, or by arithmetic alone, which
// wants the mask words' bits interleaved.
enum class ByteDecoding : std::int32_t { table, arithmetic };

// From a mask word of FORMAT.md (bit 8 f + 4 half + i) to what arithmetic decoding reads (bit f + 16 half + 4 i).
constexpr std::uint32_t interleaved_mask(std::uint32_t mask) {
  std::uint32_t word = 0;
  for (int bit = 0; bit < 32; ++bit) {
    const int f = bit / 8, half = bit / 4 % 2, i = bit % 4;
    word |= (mask >> bit & 1U) << (f + 16 * half + 4 * i);
  }
  return word;
}

}  // namespace gossamer
