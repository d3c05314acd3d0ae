// Deterministic random numbers and tensors for tests: the same on every platform, unlike <random>'s distributions.
#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/tensor.h"
#include "sparse/sparse_weight.h"

namespace gossamer::testing {

// SplitMix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  // Uniform in [0, limit).
  std::int64_t below(std::int64_t limit) { return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(limit)); }
  // Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // Uniform in [-1, 1), never 0.
  float value() {
    const auto v = static_cast<float>(2 * uniform() - 1);
    return v == 0.0F ? 0.5F : v;
  }

 private:
  std::uint64_t state_;
};

inline void store(const Tensor& row, std::int64_t i, float value) {
  visit_floating(row.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    row.data<T>()[i] = from_float<T>(value);
  });
}

inline float load(const Tensor& row, std::int64_t i) {
  return visit_floating(row.dtype(), [&](auto tag) { return to_float(row.data<typename decltype(tag)::type>()[i]); });
}

// All elements of a matrix (any row stride) as floats, row by row.
inline std::vector<float> to_floats(const Tensor& matrix) {
  std::vector<float> out;
  for (std::int64_t r = 0; r < matrix.size(0); ++r) {
    const Tensor row = matrix.select(0, r);
    for (std::int64_t c = 0; c < matrix.size(1); ++c) out.push_back(load(row, c));
  }
  return out;
}

// Each element is kept with probability `density`; the rest are zeros.
inline OwnedTensor random_matrix(Allocator& allocator, DType dtype, std::int64_t rows, std::int64_t cols, double density, Random& random) {
  OwnedTensor matrix(allocator, dtype, {rows, cols});
  for (std::int64_t r = 0; r < rows; ++r) {
    const Tensor row = matrix.view.select(0, r);
    for (std::int64_t c = 0; c < cols; ++c) store(row, c, random.uniform() < density ? random.value() : 0.0F);
  }
  return matrix;
}

}  // namespace gossamer::testing
