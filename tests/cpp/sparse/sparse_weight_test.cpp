#include "sparse/sparse_weight.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "support/faults.h"
#include "support/random.h"

namespace gossamer {
namespace {

using testing::Random;
using testing::random_matrix;
using testing::to_floats;

constexpr DType kFloating[] = {DType::f32, DType::f16, DType::bf16};
constexpr std::int64_t kSizes[] = {0, 1, 7, 8, 9, 31, 63, 64, 65, 127, 131};

OwnedTensor dense_of(const SparseWeight& weight, Allocator& allocator) {
  OwnedTensor dense(allocator, weight.dtype(), {weight.rows, weight.cols});
  std::memset(dense.buffer.data(), 0xFF, dense.buffer.bytes());
  sparse_to_dense(weight, dense.view);
  return dense;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.nbytes())) == 0;
}

TEST(SparseWeight, DenseSurvivesTheRoundTrip) {
  HostAllocator allocator;
  Random random(1);
  for (const DType dtype : kFloating) {
    for (const std::int64_t cols : kSizes) {
      for (const std::int64_t rows : {0, 1, 5}) {
        for (const double density : {0.0, 0.1, 0.5, 1.0}) {
          const OwnedTensor dense = random_matrix(allocator, dtype, rows, cols, density, random);
          const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator);
          ASSERT_NO_THROW(validate(sparse.view, "w"));
          ASSERT_TRUE(same_bytes(dense_of(sparse.view, allocator).view, dense.view)) << name_of(dtype) << rows << "x" << cols;
          std::int64_t nonzeros = 0;
          for (const float v : to_floats(dense.view)) nonzeros += v != 0.0F ? 1 : 0;
          ASSERT_EQ(sparse.view.nnz(), nonzeros);
        }
      }
    }
  }
  EXPECT_EQ(allocator.live_bytes(), 0);
}

// The example of the format's description: (0,0)=1, (0,9)=2, (1,3)=NaN, (2,12)=3 in 3x13.
TEST(SparseWeight, LayoutIsTheDocumentedOne) {
  HostAllocator allocator;
  const OwnedTensor dense(allocator, DType::f32, {3, 13});
  std::memset(dense.buffer.data(), 0, dense.buffer.bytes());
  dense.view.row<float>(0)[0] = 1;
  dense.view.row<float>(0)[9] = 2;
  dense.view.row<float>(0)[5] = -0.0F;
  dense.view.row<float>(1)[3] = std::numeric_limits<float>::quiet_NaN();
  dense.view.row<float>(2)[12] = 3;
  const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator);
  const std::uint8_t expected_mask[] = {1, 2, 8, 0, 0, 16};
  const std::int64_t expected_offsets[] = {0, 2, 3, 4};
  EXPECT_EQ(std::memcmp(sparse.mask.data(), expected_mask, sizeof(expected_mask)), 0);
  EXPECT_EQ(std::memcmp(sparse.row_offsets.data(), expected_offsets, sizeof(expected_offsets)), 0);
  const auto* values = sparse.view.values.data<float>();
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[1], 2);
  EXPECT_TRUE(std::isnan(values[2]));
  EXPECT_EQ(values[3], 3);
  EXPECT_DOUBLE_EQ(sparse.view.sparsity(), 35.0 / 39.0);
  EXPECT_EQ(sparse.view.nbytes(), 6 + 4 * 4 + 4 * 8);
}

TEST(SparseWeight, ReadsAndWritesStridedRows) {
  HostAllocator allocator;
  Random random(2);
  const OwnedTensor wide = random_matrix(allocator, DType::bf16, 6, 150, 0.4, random);
  const Tensor part = wide.view.slice(1, 11, 82);
  const OwnedSparseWeight sparse = sparse_from_dense(part, allocator);
  const OwnedTensor out(allocator, DType::bf16, {6, 100});
  std::memset(out.buffer.data(), 0xFF, out.buffer.bytes());
  sparse_to_dense(sparse.view, out.view.slice(1, 10, 81));
  EXPECT_EQ(to_floats(out.view.slice(1, 10, 81)), to_floats(part));
  for (const std::int64_t untouched : {9, 81}) EXPECT_EQ(out.view.row<BFloat16>(3)[untouched].bits, 0xFFFF);
}

TEST(SparseWeight, ConvertsWhileExpanding) {
  HostAllocator allocator;
  Random random(3);
  for (const DType from : kFloating) {
    const OwnedTensor dense = random_matrix(allocator, from, 4, 67, 0.6, random);
    const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator);
    for (const DType to : kFloating) {
      const OwnedTensor out(allocator, to, {4, 67});
      sparse_to_dense(sparse.view, out.view);
      for (std::int64_t r = 0; r < 4; ++r) {
        const OwnedTensor expected(allocator, to, {1});
        for (std::int64_t c = 0; c < 67; ++c) {
          testing::store(expected.view, 0, testing::load(dense.view.select(0, r), c));
          ASSERT_EQ(testing::load(out.view.select(0, r), c), testing::load(expected.view, 0)) << name_of(from) << " to " << name_of(to);
        }
      }
    }
  }
}

TEST(SparseWeight, KeptZerosStayInTheMask) {
  HostAllocator allocator;
  OwnedSparseWeight weight(allocator, 1, 9, 3, DType::f32);
  std::memset(weight.mask.data(), 0, weight.mask.bytes());
  weight.view.mask.data<std::uint8_t>()[0] = 0b101;
  weight.view.mask.data<std::uint8_t>()[1] = 1;
  for (int i = 0; i < 3; ++i) weight.view.values.data<float>()[i] = static_cast<float>(i);  // the first kept value is 0
  weight.view.row_offsets.data<std::int64_t>()[0] = 0;
  weight.view.row_offsets.data<std::int64_t>()[1] = 3;
  EXPECT_NO_THROW(validate(weight.view, "w"));
  EXPECT_EQ(to_floats(dense_of(weight.view, allocator).view), (std::vector<float>{0, 0, 1, 0, 0, 0, 0, 0, 2}));
}

TEST(SparseWeight, SlicesEqualDenseSlices) {
  HostAllocator allocator;
  Random random(4);
  for (const DType dtype : kFloating) {
    for (const std::int64_t cols : {1, 9, 64, 131, 200}) {
      const std::int64_t rows = 11;
      const OwnedTensor dense = random_matrix(allocator, dtype, rows, cols, random.uniform(), random);
      const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator);
      for (int trial = 0; trial < 40; ++trial) {
        const std::int64_t limit = trial % 2 == 0 ? rows : cols;
        std::int64_t begin = random.below(limit + 1);
        std::int64_t end = random.below(limit + 1);
        if (begin > end) std::swap(begin, end);
        const int axis = trial % 2;
        const OwnedSparseWeight part =
            axis == 0 ? slice_rows(sparse.view, begin, end, allocator) : slice_cols(sparse.view, begin, end, allocator);
        ASSERT_NO_THROW(validate(part.view, "part"));
        ASSERT_EQ(to_floats(dense_of(part.view, allocator).view), to_floats(dense.view.slice(axis, begin, end)));
      }
      EXPECT_THROW(slice_cols(sparse.view, 0, cols + 1, allocator), InvalidArgument);
      EXPECT_THROW(slice_rows(sparse.view, 3, 2, allocator), InvalidArgument);
    }
  }
}

TEST(SparseWeight, ColumnShardsOfAnyDegreeAddUpToTheWhole) {
  HostAllocator allocator;
  Random random(5);
  const OwnedTensor dense = random_matrix(allocator, DType::f16, 3, 210, 0.5, random);
  const OwnedSparseWeight sparse = sparse_from_dense(dense.view, allocator);
  for (const std::int64_t degree : {1, 2, 3, 5, 7, 210}) {
    const OwnedTensor rebuilt(allocator, DType::f16, {3, 210});
    const std::int64_t width = 210 / degree;
    for (std::int64_t rank = 0; rank < degree; ++rank) {
      const OwnedSparseWeight shard = slice_cols(sparse.view, rank * width, (rank + 1) * width, allocator);
      sparse_to_dense(shard.view, rebuilt.view.slice(1, rank * width, (rank + 1) * width));
    }
    ASSERT_TRUE(same_bytes(rebuilt.view, dense.view)) << degree;
  }
}

TEST(SparseWeight, ConcatenatesRows) {
  ThreadPool pool(2);
  HostAllocator allocator;
  Random random(6);
  const OwnedTensor dense = random_matrix(allocator, DType::bf16, 9, 45, 0.3, random);
  const OwnedSparseWeight whole = sparse_from_dense(dense.view, allocator);
  const OwnedSparseWeight a = slice_rows(whole.view, 0, 4, allocator);
  const OwnedSparseWeight b = slice_rows(whole.view, 4, 4, allocator);
  const OwnedSparseWeight c = slice_rows(whole.view, 4, 9, allocator);
  const OwnedSparseWeight joined = concat_rows({a.view, b.view, c.view}, allocator, pool);
  EXPECT_TRUE(same_bytes(joined.view.mask, whole.view.mask));
  EXPECT_TRUE(same_bytes(joined.view.values, whole.view.values));
  EXPECT_TRUE(same_bytes(joined.view.row_offsets, whole.view.row_offsets));
  const OwnedSparseWeight narrow = slice_cols(whole.view, 0, 44, allocator);
  EXPECT_THROW(concat_rows({a.view, narrow.view}, allocator, pool), InvalidArgument);
  EXPECT_THROW(concat_rows({}, allocator, pool), InvalidArgument);
}

TEST(SparseWeight, StatisticsCountRows) {
  HostAllocator allocator;
  const OwnedTensor dense(allocator, DType::f32, {4, 10});
  for (std::int64_t r = 0; r < 4; ++r) {
    for (std::int64_t c = 0; c < 10; ++c) dense.view.row<float>(r)[c] = c < (r == 3 ? 10 : 2 * r) ? 1.0F : 0.0F;
  }
  const SparseStatistics s = statistics(sparse_from_dense(dense.view, allocator).view);
  EXPECT_EQ(s.nnz, 16);
  EXPECT_EQ(s.min_row_nnz, 0);
  EXPECT_EQ(s.max_row_nnz, 10);
  EXPECT_EQ(s.empty_rows, 1);
  EXPECT_EQ(s.full_rows, 1);
  EXPECT_DOUBLE_EQ(s.sparsity, 0.6);
  ASSERT_EQ(s.row_density_histogram.size(), 20U);
  for (const std::size_t bin : {0U, 4U, 8U, 19U}) EXPECT_EQ(s.row_density_histogram[bin], 1);
}

TEST(SparseWeight, RefusesWhatIsNotAFloatingMatrix) {
  HostAllocator allocator;
  const OwnedTensor integers(allocator, DType::i32, {2, 2});
  const OwnedTensor vector(allocator, DType::f32, {4});
  EXPECT_THROW(sparse_from_dense(integers.view, allocator), InvalidArgument);
  EXPECT_THROW(sparse_from_dense(vector.view, allocator), InvalidArgument);
  EXPECT_THROW(OwnedSparseWeight(allocator, 1, 1, 1, DType::u8), InvalidArgument);
  EXPECT_THROW(OwnedSparseWeight(allocator, -1, 1, 1, DType::f32), InvalidArgument);
  const OwnedTensor square(allocator, DType::f32, {2, 2});
  const OwnedSparseWeight sparse = sparse_from_dense(square.view, allocator);
  EXPECT_THROW(sparse_to_dense(sparse.view, vector.view), InvalidArgument);
}

TEST(SparseWeight, FailedAllocationsLeakNothing) {
  ThreadPool pool(2);
  testing::FaultPoint point;
  testing::FailingAllocator failing(point);
  HostAllocator allocator;
  Random random(7);
  const OwnedTensor dense = random_matrix(allocator, DType::f32, 5, 70, 0.5, random);
  const auto build_and_slice = [&] {
    const OwnedSparseWeight sparse = sparse_from_dense(dense.view, failing);
    const OwnedSparseWeight part = slice_cols(sparse.view, 3, 66, failing);
    const OwnedSparseWeight joined = concat_rows({part.view, part.view}, failing, pool);
  };
  for (const auto mode : {testing::FaultPoint::Mode::once, testing::FaultPoint::Mode::from_then_on}) {
    const std::int64_t failed = testing::fail_each_call<OutOfMemoryError>(
        point, mode, build_and_slice, [&](std::int64_t k, const OutOfMemoryError&) { EXPECT_EQ(failing.live_bytes(), 0) << k; });
    EXPECT_EQ(failed, 9);
  }
}

}  // namespace
}  // namespace gossamer
