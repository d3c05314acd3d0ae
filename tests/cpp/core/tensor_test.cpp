#include "core/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <numeric>

namespace gossamer {
namespace {

class TensorTest : public ::testing::Test {
 protected:
  TensorTest() { std::iota(data_.begin(), data_.end(), 0.0F); }
  std::array<float, 24> data_{};
  Tensor tensor_{data_.data(), DType::f32, {2, 3, 4}};
};

TEST_F(TensorTest, IsARowMajorView) {
  EXPECT_EQ(tensor_.numel(), 24);
  EXPECT_EQ(tensor_.nbytes(), 96);
  EXPECT_EQ(tensor_.stride(0), 12);
  EXPECT_EQ(tensor_.stride(2), 1);
  EXPECT_TRUE(tensor_.is_contiguous());
  EXPECT_EQ(tensor_.to_string(), "f32[2, 3, 4] on cpu");
  EXPECT_EQ(*tensor_.row<float>(1), 12.0F);
}

TEST_F(TensorTest, SlicesWithoutCopying) {
  const Tensor middle = tensor_.slice(1, 1, 3);
  EXPECT_EQ(middle.size(1), 2);
  EXPECT_EQ(middle.data<float>()[0], 4.0F);
  EXPECT_EQ(*middle.row<float>(1), 16.0F);
  EXPECT_FALSE(middle.is_contiguous());
  EXPECT_TRUE(tensor_.rows(1, 2).is_contiguous());
  EXPECT_EQ(tensor_.slice(2, 4, 4).numel(), 0);
}

TEST_F(TensorTest, SelectDropsTheAxis) {
  const Tensor column = tensor_.select(2, 3);
  EXPECT_EQ(column.rank(), 2);
  EXPECT_EQ(column.size(0), 2);
  EXPECT_EQ(column.size(1), 3);
  EXPECT_EQ(column.data<float>()[column.stride(0) + 2 * column.stride(1)], 23.0F);
}

TEST_F(TensorTest, SplitsTheLastAxisOfStridedRows) {
  const Tensor columns = tensor_.reshape({6, 4}).slice(1, 0, 2);
  const Tensor split = columns.split_last(2, 1);
  EXPECT_EQ(split.rank(), 3);
  EXPECT_EQ(split.data<float>()[5 * split.stride(0) + split.stride(1)], 21.0F);
  EXPECT_THROW(columns.split_last(3, 1), InvalidArgument);
  EXPECT_THROW(columns.split_last(-1, -2), InvalidArgument);
}

TEST_F(TensorTest, ReshapesOnlyContiguousElements) {
  EXPECT_EQ(tensor_.reshape({24}).data<float>()[23], 23.0F);
  EXPECT_THROW(tensor_.reshape({23}), InvalidArgument);
  EXPECT_THROW(tensor_.slice(2, 0, 2).reshape({12}), InvalidArgument);
}

TEST_F(TensorTest, RefusesWhatIsOutOfRange) {
  EXPECT_THROW(tensor_.slice(3, 0, 1), InvalidArgument);
  EXPECT_THROW(tensor_.slice(-1, 0, 1), InvalidArgument);
  EXPECT_THROW(tensor_.slice(0, 1, 3), InvalidArgument);
  EXPECT_THROW(tensor_.slice(0, 2, 1), InvalidArgument);
  EXPECT_THROW(tensor_.select(0, 2), InvalidArgument);
  EXPECT_THROW(tensor_.data<std::int32_t>(), InternalError);
}

TEST(Tensor, RefusesImpossibleShapes) {
  float x = 0;
  EXPECT_THROW(Tensor(&x, DType::f32, {1, 1, 1, 1, 1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, DType::f32, {-1}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, DType::f32, {std::int64_t{1} << 32, std::int64_t{1} << 31}), InvalidArgument);
  EXPECT_THROW(Tensor(&x, DType::f32, {std::numeric_limits<std::int64_t>::max()}), InvalidArgument);
}

TEST(Tensor, UndefinedIsEmpty) {
  const Tensor none;
  EXPECT_FALSE(none.defined());
  EXPECT_EQ(none.numel(), 0);
  EXPECT_EQ(none.to_string(), "undefined");
}

TEST(Device, HasAName) {
  EXPECT_EQ(Device{}.to_string(), "cpu");
  EXPECT_EQ((Device{Device::Kind::cuda, 1}).to_string(), "cuda:1");
}

}  // namespace
}  // namespace gossamer
