// Scaled weights as halves: one rounding of value times scale, the same mask; and a full mask over a dense matrix.
#include "sparse/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace gossamer {
namespace {

// Bytes of any kind (no NaN), about half of them 0; scales of mixed sizes.
OwnedScaledMatrix random_matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t group, Allocator& allocator) {
  std::mt19937 random(static_cast<unsigned>(rows * 7 + cols));
  OwnedScaledMatrix matrix(allocator, dtype, rows, cols, group);
  for (std::int64_t r = 0; r < rows; ++r) {
    auto* row = static_cast<std::uint8_t*>(matrix.view.values.select(0, r).raw());
    for (std::int64_t i = 0; i < bytes_of(dtype, cols); ++i) {
      std::uint32_t byte = random() % 2 == 0 ? 0 : random() % 256;
      if (dtype == DType::e4m3 && (byte & 0x7fU) == 0x7fU) byte = 1;
      if (dtype == DType::i4 && cols % 2 == 1 && i == cols / 2) byte &= 0x0fU;
      row[i] = static_cast<std::uint8_t>(byte);
    }
    for (std::int64_t g = 0; g < num_scale_groups(cols, group); ++g) {
      matrix.view.scales.row<float>(r)[g] =
          std::ldexp(1.0F + static_cast<float>(random() % 1000) / 1000.0F, static_cast<int>(random() % 12) - 10);
    }
  }
  return matrix;
}

class Dequantize : public ::testing::TestWithParam<std::tuple<DType, DType, bool>> {};

TEST_P(Dequantize, RoundsValueTimesScaleOnce) {
  const auto [from, to, is_grouped] = GetParam();
  HostAllocator allocator;
  ThreadPool pool(2);
  const std::int64_t rows = 70, cols = 193;
  const OwnedScaledMatrix matrix = random_matrix(from, rows, cols, is_grouped ? 64 : cols, allocator);
  OwnedTensor exact(allocator, DType::f32, {rows, cols});
  scaled_to_dense(matrix.view, exact.view);

  const OwnedTensor dense = dequantize(matrix.view, to, allocator, pool);
  ASSERT_EQ(dense.view.dtype(), to);
  const OwnedSparseWeight stored = sparse_from_scaled(matrix.view, allocator);
  const OwnedSparseWeight sparse = dequantize(stored.view, to, allocator, pool);
  validate(sparse.view, "w");
  EXPECT_EQ(std::memcmp(sparse.view.mask.raw(), stored.view.mask.raw(), static_cast<std::size_t>(stored.view.mask.nbytes())), 0);
  OwnedTensor expanded(allocator, to, {rows, cols});
  sparse_to_dense(sparse.view, expanded.view);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    const float value = exact.view.data<float>()[i];
    const std::uint16_t expected = to == DType::bf16 ? to_bfloat16(value).bits : to_float16(value).bits;
    ASSERT_EQ(static_cast<const std::uint16_t*>(expanded.view.raw())[i] & 0x7fffU, expected & 0x7fffU) << i;  // -0 is not kept
    ASSERT_EQ(static_cast<const std::uint16_t*>(dense.view.raw())[i], expected) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Dequantize,
                         ::testing::Combine(::testing::Values(DType::i8, DType::e4m3, DType::i4),
                                            ::testing::Values(DType::f16, DType::bf16), ::testing::Bool()));

TEST(Dequantize, SaysWhatDoesNotFit) {
  HostAllocator allocator;
  ThreadPool pool(1);
  const OwnedScaledMatrix matrix = random_matrix(DType::i8, 4, 64, 64, allocator);
  static_cast<std::int8_t*>(matrix.view.values.raw())[5] = 100;
  matrix.view.scales.data<float>()[0] = 1000.0F;
  try {
    dequantize(matrix.view, DType::f16, allocator, pool);
    ADD_FAILURE() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("does not fit f16; use dtype='bfloat16'"), std::string::npos) << error.what();
  }
  EXPECT_THROW(dequantize(sparse_from_scaled(matrix.view, allocator).view, DType::f16, allocator, pool), InvalidArgument);
  EXPECT_NO_THROW(dequantize(matrix.view, DType::bf16, allocator, pool));
}

TEST(Dequantize, AFullMaskKeepsZeros) {
  HostAllocator allocator;
  ThreadPool pool(2);
  const OwnedScaledMatrix matrix = random_matrix(DType::e4m3, 67, 77, 77, allocator);
  const OwnedSparseWeight full = with_full_mask(matrix.view, allocator, pool);
  validate(full.view, "w");
  EXPECT_EQ(full.view.nnz(), 67 * 77);
  OwnedTensor expected(allocator, DType::f32, {67, 77}), found(allocator, DType::f32, {67, 77});
  scaled_to_dense(matrix.view, expected.view);
  sparse_to_dense(full.view, found.view);
  EXPECT_EQ(std::memcmp(expected.view.raw(), found.view.raw(), static_cast<std::size_t>(expected.view.nbytes())), 0);
}

}  // namespace
}  // namespace gossamer
