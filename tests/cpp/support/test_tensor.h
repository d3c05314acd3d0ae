// Tensors on the device under test together with the numbers they hold, and numbers to fill them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "core/memory.h"
#include "ops/ops.h"
#include "support/random.h"

namespace gossamer::testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Shape = std::vector<std::int64_t>;

inline std::int64_t product(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

inline float round_to(DType dtype, float value) {
  return visit_floating(dtype, [&](auto tag) { return to_float(from_float<typename decltype(tag)::type>(value)); });
}

// Normally distributed (Box-Muller).
inline std::vector<float> normal(Random& random, std::int64_t count, float scale = 1.0F, float mean = 0.0F) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
    value = mean + scale * static_cast<float>(radius * std::cos(2 * M_PI * random.uniform()));
  }
  return values;
}

// 0 .. count-1, shuffled.
inline std::vector<std::int32_t> permutation(Random& random, std::int64_t count) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  for (std::int64_t i = count - 1; i > 0; --i)
    std::swap(values[static_cast<std::size_t>(i)], values[static_cast<std::size_t>(random.below(i + 1))]);
  return values;
}

// A floating tensor on the device. With pad > 0 its rows lie pad elements apart, and the gaps hold NaN: reading one spoils the result,
// writing one fails in read().
class TestTensor {
 public:
  TestTensor(Ops& ops, DType dtype, Shape shape, std::vector<float> values, std::int64_t pad = 0)
      : ops_(&ops), shape_(std::move(shape)), values_(std::move(values)), row_(product({shape_.begin() + 1, shape_.end()})) {
    storage_ = OwnedTensor(ops.allocator(), dtype, {shape_[0], row_ + pad});
    for (float& value : values_) value = round_to(dtype, value);
    std::vector<float> padded;
    for (std::int64_t i = 0; i < shape_[0]; ++i) {
      padded.insert(padded.end(), values_.begin() + i * row_, values_.begin() + (i + 1) * row_);
      padded.insert(padded.end(), static_cast<std::size_t>(pad), kNan);
    }
    write(padded);
  }
  static TestTensor poisoned(Ops& ops, DType dtype, const Shape& shape, std::int64_t pad = 0) {
    return {ops, dtype, shape, std::vector<float>(static_cast<std::size_t>(product(shape)), kNan), pad};
  }

  Tensor view() const {
    const Tensor rows = storage_.view.slice(1, 0, row_);
    switch (shape_.size()) {
      case 1: return storage_.view.reshape({shape_[0]});
      case 2: return rows;
      case 3: return rows.split_last(shape_[1], shape_[2]);
      default: return storage_.view.reshape({shape_[0], shape_[1], shape_[2], shape_[3]});
    }
  }
  operator Tensor() const { return view(); }

  // What was put in, rounded to the dtype.
  const std::vector<float>& values() const { return values_; }
  double at(std::int64_t i) const { return values_[static_cast<std::size_t>(i)]; }
  double at(std::int64_t i, std::int64_t j) const { return at(i * row_ + j); }
  std::int64_t row_size() const { return row_; }
  DType dtype() const { return storage_.view.dtype(); }

  // What is there now.
  std::vector<float> read() const {
    HostAllocator host;
    const std::int64_t width = storage_.view.size(1);
    OwnedTensor copy(host, dtype(), {shape_[0], width});
    ops_->download(copy.view, storage_.view);
    std::vector<float> values;
    visit_floating(dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::int64_t i = 0; i < shape_[0]; ++i) {
        for (std::int64_t j = 0; j < row_; ++j) values.push_back(to_float(copy.view.row<const T>(i)[j]));
        for (std::int64_t j = row_; j < width; ++j)
          EXPECT_TRUE(std::isnan(to_float(copy.view.row<const T>(i)[j]))) << "the gap after row " << i << " was written";
      }
    });
    return values;
  }

 private:
  void write(const std::vector<float>& padded) {
    HostAllocator host;
    OwnedTensor copy(host, dtype(), {shape_[0], storage_.view.size(1)});
    visit_floating(dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::transform(padded.begin(), padded.end(), copy.view.data<T>(), [](float value) { return from_float<T>(value); });
    });
    ops_->upload(storage_.view, copy.view);
  }

  Ops* ops_;
  Shape shape_;
  std::vector<float> values_;
  std::int64_t row_;
  OwnedTensor storage_;
};

// Integers on the device.
class IntTensor {
 public:
  IntTensor(Ops& ops, std::vector<std::int32_t> values) : values_(std::move(values)) {
    const auto size = static_cast<std::int64_t>(values_.size());
    storage_ = OwnedTensor(ops.allocator(), DType::i32, {size});
    ops.upload(storage_.view, Tensor(values_.data(), DType::i32, {size}));
  }
  Tensor matrix(std::int64_t rows) const { return storage_.view.reshape({rows, storage_.view.size(0) / rows}); }
  operator Tensor() const { return storage_.view; }
  std::int64_t at(std::int64_t i) const { return values_[static_cast<std::size_t>(i)]; }

 private:
  std::vector<std::int32_t> values_;
  OwnedTensor storage_;
};

}  // namespace gossamer::testing
