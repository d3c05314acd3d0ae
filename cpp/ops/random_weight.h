// Weights made of random numbers, for measuring models that nobody has to download: the same on every device.
#pragma once

#include <cstdint>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "sparse/sparse_weight.h"

namespace gossamer {

// Element (row, col) is kept with probability 1 - sparsity and then uniform in (-scale, scale); of 8-bit values (i8, e4m3) one scale a row.
struct RandomWeight {
  std::int64_t rows = 0;  // m
  std::int64_t cols = 0;  // k
  DType dtype = DType::f16;
  bool is_sparse = false;  // packed sparse; otherwise dense, and sparsity is not looked at
  double sparsity = 0.0;   // in [0, 1]
  float scale = 0.05F;
  std::uint64_t seed = 0;

  bool has_bytes() const { return dtype == DType::i8 || dtype == DType::e4m3; }
  float largest_byte() const { return dtype == DType::i8 ? 127.0F : 448.0F; }  // as a number
  float byte_scale() const { return scale / largest_byte(); }

  // An element is kept when the upper half of its bits is at least this.
  std::uint64_t threshold() const { return is_sparse ? static_cast<std::uint64_t>(sparsity * 4294967296.0) : 0; }
};

// 64 random bits of an element: SplitMix64 (Steele, Lea and Flood, OOPSLA'14) at position `index` = row * cols + col of the seed's stream.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}
// In (-scale, scale), never 0: the lower 23 bits as an odd multiple of 2^-23, which is exact before it is scaled.
constexpr float random_value(std::uint64_t bits, float scale) {
  return (static_cast<float>(2 * (bits & 0x7FFFFFU) + 1) * 0x1p-23F - 1.0F) * scale;
}

// An i8 or e4m3 value, uniform before it is rounded; may be 0.
std::uint8_t random_byte(const RandomWeight& weight, std::uint64_t bits);

// The dense form on the host, as pack() makes it. weight: of a floating dtype.
OwnedTensor make_random_dense(const RandomWeight& weight, Allocator& allocator, ThreadPool& pool);
// The stored forms on the host.
OwnedSparseWeight make_random_sparse(const RandomWeight& weight, Allocator& allocator, ThreadPool& pool);
OwnedScaledMatrix make_random_scaled(const RandomWeight& weight, Allocator& allocator, ThreadPool& pool);

}  // namespace gossamer
