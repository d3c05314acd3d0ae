// Random weights of small values and their scales.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "sparse/sparse_weight.h"
#include "support/random.h"

namespace gossamer::testing {

inline constexpr DType kScaledDTypes[] = {DType::i8, DType::e4m3, DType::i4};

// Any pattern of the dtype that is a number; 0 with probability 1 - density.
inline OwnedScaledMatrix random_scaled(Allocator& allocator, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t group,
                                       double density, Random& random) {
  OwnedScaledMatrix matrix(allocator, dtype, rows, cols, group);
  for (std::int64_t r = 0; r < rows; ++r) {
    auto* row = static_cast<std::uint8_t*>(matrix.view.values.select(0, r).raw());
    std::memset(row, 0, static_cast<std::size_t>(bytes_of(dtype, cols)));
    for (std::int64_t c = 0; c < cols; ++c) {
      auto bits = static_cast<std::uint8_t>(random.uniform() < density ? 1 + random.below(dtype == DType::i4 ? 15 : 255) : 0);
      if (dtype == DType::e4m3 && (bits & 0x7F) == 0x7F) bits ^= 1;  // not NaN
      if (dtype == DType::i4) {
        row[c / 2] = static_cast<std::uint8_t>(row[c / 2] | bits << (c % 2 * 4));
      } else {
        row[c] = bits;
      }
    }
    for (std::int64_t g = 0; g < matrix.view.scales.size(1); ++g) {
      matrix.view.scales.row<float>(r)[g] = 0.02F * static_cast<float>(1 + random.below(64));
    }
  }
  return matrix;
}

inline std::vector<float> to_floats(const ScaledMatrix& matrix) {
  HostAllocator allocator;
  const OwnedTensor dense(allocator, DType::f32, {matrix.rows(), matrix.cols()});
  scaled_to_dense(matrix, dense.view);
  return to_floats(dense.view);
}

inline std::vector<float> to_floats(const SparseWeight& weight) {
  HostAllocator allocator;
  const OwnedTensor dense(allocator, DType::f32, {weight.rows, weight.cols});
  sparse_to_dense(weight, dense.view);
  return to_floats(dense.view);
}

}  // namespace gossamer::testing
