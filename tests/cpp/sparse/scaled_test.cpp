// Values with scales, dense and under a mask: the same weight in every form, part and encoding.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "support/scaled_cases.h"

namespace gossamer {
namespace {

using testing::kScaledDTypes;
using testing::Random;
using testing::random_scaled;
using testing::to_floats;

struct Shape {
  std::int64_t rows, cols, group;
};
constexpr Shape kShapes[] = {{1, 1, 1}, {5, 13, 13}, {3, 64, 64}, {4, 200, 64}, {7, 131, 131}, {2, 384, 128}, {9, 257, 192}};

TEST(Scaled, EveryElementIsItsValueTimesItsScale) {
  HostAllocator allocator;
  Random random(1);
  for (const DType dtype : kScaledDTypes) {
    for (const Shape& s : kShapes) {
      const OwnedScaledMatrix matrix = random_scaled(allocator, dtype, s.rows, s.cols, s.group, 0.7, random);
      ASSERT_NO_THROW(validate(matrix.view, "w"));
      const std::vector<float> dense = to_floats(matrix.view);
      for (std::int64_t r = 0; r < s.rows; ++r) {
        const auto* bytes = static_cast<const std::uint8_t*>(matrix.view.values.select(0, r).raw());
        for (std::int64_t c = 0; c < s.cols; ++c) {
          const float value = dtype == DType::i4   ? static_cast<float>(nibble_at(bytes, c))
                              : dtype == DType::i8 ? static_cast<float>(static_cast<std::int8_t>(bytes[c]))
                                                   : to_float(Float8E4M3{bytes[c]});
          ASSERT_EQ(dense[static_cast<std::size_t>(r * s.cols + c)], value * matrix.view.scales.row<float>(r)[c / s.group]);
        }
      }
    }
  }
}

TEST(Scaled, SparseHoldsWhatDenseHolds) {
  HostAllocator allocator;
  Random random(2);
  for (const DType dtype : kScaledDTypes) {
    for (const Shape& s : kShapes) {
      for (const double density : {0.0, 0.3, 1.0}) {
        const OwnedScaledMatrix matrix = random_scaled(allocator, dtype, s.rows, s.cols, s.group, density, random);
        const OwnedSparseWeight sparse = sparse_from_scaled(matrix.view, allocator);
        ASSERT_NO_THROW(validate(sparse.view, "w"));
        ASSERT_EQ(to_floats(sparse.view), to_floats(matrix.view)) << name_of(dtype) << " " << s.rows << "x" << s.cols;
        std::int64_t kept = 0;
        for (const float value : to_floats(matrix.view)) kept += value != 0.0F ? 1 : 0;
        ASSERT_EQ(statistics(sparse.view).nnz, kept);
        ASSERT_DOUBLE_EQ(sparse.view.sparsity(), 1.0 - static_cast<double>(kept) / static_cast<double>(s.rows * s.cols));
        if (dtype != DType::i4) {
          ASSERT_EQ(sparse.view.nnz(), kept);
        }
      }
    }
  }
  EXPECT_EQ(allocator.live_bytes(), 0);
}

TEST(Scaled, RowsOfInt4BeginOnBytes) {
  HostAllocator allocator;
  OwnedScaledMatrix matrix(allocator, DType::i4, 2, 5, 5);
  const std::uint8_t values[] = {0x01, 0x02, 0x07, 0xF0, 0x00, 0x00};  // 1 0 2 0 7 and 0 -1 0 0 0
  std::memcpy(matrix.values.data(), values, sizeof values);
  matrix.view.scales.data<float>()[0] = matrix.view.scales.data<float>()[1] = 1;
  const OwnedSparseWeight sparse = sparse_from_scaled(matrix.view, allocator);
  EXPECT_EQ(sparse.view.nnz(), 6);
  const std::int64_t offsets[] = {0, 4, 6};
  EXPECT_EQ(std::memcmp(sparse.row_offsets.data(), offsets, sizeof offsets), 0);
  const std::uint8_t packed[] = {0x21, 0x07, 0x0F};
  ASSERT_EQ(sparse.values.bytes(), sizeof packed);
  EXPECT_EQ(std::memcmp(sparse.values.data(), packed, sizeof packed), 0);
}

TEST(Scaled, SlicesAndStacksEqualThoseOfTheDenseMatrix) {
  ThreadPool pool(2);
  HostAllocator allocator;
  Random random(3);
  for (const DType dtype : kScaledDTypes) {
    for (const Shape& s : {Shape{6, 320, 64}, Shape{6, 320, 128}, Shape{6, 130, 130}, Shape{6, 200, 64}}) {
      const OwnedScaledMatrix matrix = random_scaled(allocator, dtype, s.rows, s.cols, s.group, 0.5, random);
      const OwnedSparseWeight sparse = sparse_from_scaled(matrix.view, allocator);
      const OwnedTensor dense(allocator, DType::f32, {s.rows, s.cols});
      scaled_to_dense(matrix.view, dense.view);
      const std::int64_t unit = s.group == s.cols ? 26 : s.group;
      for (std::int64_t begin = 0; begin < s.cols; begin += unit) {
        for (std::int64_t end = begin + unit; end < s.cols + unit; end += unit) {
          const std::int64_t stop = std::min(end, s.cols);
          const std::vector<float> expected = to_floats(dense.view.slice(1, begin, stop));
          const OwnedSparseWeight part = slice_cols(sparse.view, begin, stop, allocator);
          ASSERT_NO_THROW(validate(part.view, "part"));
          ASSERT_EQ(to_floats(part.view), expected) << name_of(dtype) << " columns " << begin << " to " << stop;
          ASSERT_EQ(to_floats(column_slice(matrix.view, begin, stop)), expected);
        }
      }
      const OwnedSparseWeight top = slice_rows(sparse.view, 0, 2, allocator);
      const OwnedSparseWeight rest = slice_rows(sparse.view, 2, 6, allocator);
      const OwnedSparseWeight joined = concat_rows({rest.view, top.view}, allocator, pool);
      ASSERT_NO_THROW(validate(joined.view, "joined"));
      const OwnedScaledMatrix stacked = stack_rows({row_slice(matrix.view, 2, 6), row_slice(matrix.view, 0, 2)}, allocator);
      ASSERT_NO_THROW(validate(stacked.view, "stacked"));
      std::vector<float> expected = to_floats(dense.view.rows(2, 6));
      for (const float value : to_floats(dense.view.rows(0, 2))) expected.push_back(value);
      ASSERT_EQ(to_floats(joined.view), expected);
      ASSERT_EQ(to_floats(stacked.view), expected);
    }
  }
}

TEST(Scaled, RefusesWhatCutsAGroup) {
  ThreadPool pool(2);
  HostAllocator allocator;
  Random random(4);
  const OwnedScaledMatrix matrix = random_scaled(allocator, DType::i8, 2, 200, 64, 0.5, random);
  const OwnedSparseWeight sparse = sparse_from_scaled(matrix.view, allocator);
  EXPECT_THROW(slice_cols(sparse.view, 32, 200, allocator), InvalidArgument);
  EXPECT_THROW(slice_cols(sparse.view, 0, 100, allocator), InvalidArgument);
  EXPECT_THROW(column_slice(matrix.view, 32, 200), InvalidArgument);
  EXPECT_NO_THROW(slice_cols(sparse.view, 64, 200, allocator));
  const OwnedScaledMatrix whole = random_scaled(allocator, DType::i8, 2, 200, 200, 0.5, random);
  EXPECT_THROW(stack_rows({matrix.view, whole.view}, allocator), InvalidArgument);
  EXPECT_THROW(concat_rows({sparse.view, sparse_from_scaled(whole.view, allocator).view}, allocator, pool), InvalidArgument);
  EXPECT_THROW(OwnedScaledMatrix(allocator, DType::i8, 2, 200, 32), InvalidArgument);
  EXPECT_THROW(OwnedScaledMatrix(allocator, DType::f16, 2, 200, 200), InvalidArgument);
  EXPECT_THROW(OwnedSparseWeight(allocator, 2, 200, 8, DType::i8), InvalidArgument);
  EXPECT_THROW(OwnedSparseWeight(allocator, 2, 200, 8, DType::f16, 200), InvalidArgument);
}

struct Damage {
  const char* name;
  std::function<void(OwnedSparseWeight&)> apply;
  const char* expected_text;
};

const Damage kDamages[] = {
    {"no scales", [](auto& w) { w.view.scales = Tensor(); }, "scale"},
    {"a scale too few", [](auto& w) { w.view.scales = w.scales.view(DType::f32, {3, 3}); }, "f32[3, 4]"},
    {"scales of another dtype", [](auto& w) { w.view.scales = w.scales.view(DType::i32, {3, 4}); }, "f32[3, 4]"},
    {"a scale that is NaN", [](auto& w) { w.view.scales.template data<float>()[5] = std::numeric_limits<float>::quiet_NaN(); },
     "scale row 1"},
    {"an infinite scale", [](auto& w) { w.view.scales.template data<float>()[11] = std::numeric_limits<float>::infinity(); },
     "scale row 2"},
    {"a group of 0", [](auto& w) { w.view.group = 0; }, "scale_group"},
    {"a negative group", [](auto& w) { w.view.group = -64; }, "scale_group"},
    {"a group of 65", [](auto& w) { w.view.group = 65; }, "scale_group"},
    {"a group larger than the row", [](auto& w) { w.view.group = 256; }, "scale_group"},
    {"an odd row without its padding", [](auto& w) { --w.view.row_offsets.template data<std::int64_t>()[1]; }, "row_offsets[1]"},
    {"a value in the padding",
     [](auto& w) {
       w.view.values = w.values.view(DType::i4, {w.view.nnz()});
       static_cast<std::uint8_t*>(w.values.data())[0] |= 0x10;
     },
     "not 0"},
    {"values of another dtype", [](auto& w) { w.view.values = w.values.view(DType::u8, {3}); }, "i8, e4m3 or i4 with scales"},
};

TEST(Scaled, ValidateNamesEachFault) {
  HostAllocator allocator;
  OwnedScaledMatrix matrix(allocator, DType::i4, 3, 200, 64);
  std::memset(matrix.values.data(), 0, matrix.values.bytes());
  std::fill_n(matrix.view.scales.data<float>(), 12, 0.5F);
  for (const int row : {0, 1, 2}) static_cast<std::uint8_t*>(matrix.values.data())[100 * row + 7] = 0x05;  // one value a row
  for (const Damage& damage : kDamages) {
    SCOPED_TRACE(damage.name);
    OwnedSparseWeight weight = sparse_from_scaled(matrix.view, allocator);
    ASSERT_NO_THROW(validate(weight.view, "w"));
    damage.apply(weight);
    try {
      validate(weight.view, "w");
      ADD_FAILURE() << "accepted";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(damage.expected_text), std::string::npos) << error.what();
    }
  }
  OwnedSparseWeight floats(allocator, 1, 8, 0, DType::f32);
  std::memset(floats.mask.data(), 0, 1);
  std::memset(floats.row_offsets.data(), 0, 16);
  ASSERT_NO_THROW(validate(floats.view, "w"));
  floats.view.group = 8;
  EXPECT_THROW(validate(floats.view, "w"), CheckpointError);
}

TEST(Scaled, ValidateChecksDenseMatrices) {
  HostAllocator allocator;
  Random random(5);
  OwnedScaledMatrix odd = random_scaled(allocator, DType::i4, 2, 7, 7, 1.0, random);
  ASSERT_NO_THROW(validate(odd.view, "w"));
  static_cast<std::uint8_t*>(odd.values.data())[7] |= 0x30;
  EXPECT_THROW(validate(odd.view, "w"), CheckpointError);
  ScaledMatrix wrong = random_scaled(allocator, DType::i8, 2, 7, 7, 1.0, random).view;
  wrong.values = Tensor();
  EXPECT_THROW(validate(wrong, "w"), CheckpointError);
}

}  // namespace
}  // namespace gossamer
