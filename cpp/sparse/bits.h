// 64-bit views of a bit-mask row: column c is bit c % 8 (LSB first) of byte c / 8, so on a little-endian host a word's bit i is column i.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gossamer {

static_assert(std::endian::native == std::endian::little, "bit masks are read as little-endian words");

// The lowest `count` bits, 0 <= count <= 64.
constexpr std::uint64_t low_bits(std::int64_t count) { return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1; }

// Without a popcnt instruction in the baseline this is cheaper than the library call of std::popcount.
constexpr std::int64_t count_ones(std::uint64_t word) {
  word -= (word >> 1) & 0x5555555555555555U;
  word = (word & 0x3333333333333333U) + ((word >> 2) & 0x3333333333333333U);
  word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0FU;
  return static_cast<std::int64_t>((word * 0x0101010101010101U) >> 56);
}

// Reads bits [begin, begin + count) of a row of `bytes` bytes into the low bits of a word; count <= 64.
inline std::uint64_t load_bits(const std::uint8_t* row, std::int64_t bytes, std::int64_t begin, std::int64_t count) {
  const std::int64_t first = begin / 8;
  const int shift = static_cast<int>(begin % 8);
  std::uint64_t word = 0;
  std::memcpy(&word, row + first, static_cast<std::size_t>(std::min<std::int64_t>(8, bytes - first)));
  word >>= shift;
  if (shift != 0 && first + 8 < bytes) word |= std::uint64_t{row[first + 8]} << (64 - shift);
  return word & low_bits(count);
}

// Writes the low `count` bits of a word at a column that is a multiple of 8; pad bits up to the byte become 0.
inline void store_bits(std::uint8_t* row, std::int64_t begin, std::int64_t count, std::uint64_t word) {
  std::memcpy(row + begin / 8, &word, static_cast<std::size_t>((count + 7) / 8));
}

// Calls f(column, count, word) for each piece of at most 64 columns of [begin, end).
template <typename F>
void for_each_word(const std::uint8_t* row, std::int64_t bytes, std::int64_t begin, std::int64_t end, F&& f) {
  for (std::int64_t column = begin; column < end; column += 64) {
    const std::int64_t count = std::min<std::int64_t>(64, end - column);
    f(column, count, load_bits(row, bytes, column, count));
  }
}

inline std::int64_t count_bits(const std::uint8_t* row, std::int64_t bytes, std::int64_t begin, std::int64_t end) {
  std::int64_t total = 0;
  for_each_word(row, bytes, begin, end, [&total](std::int64_t, std::int64_t, std::uint64_t word) { total += count_ones(word); });
  return total;
}

}  // namespace gossamer
