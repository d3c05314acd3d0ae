#include "core/tensor.h"

#include <cstddef>

namespace gossamer {
namespace {

std::string shape_text(const std::int64_t* shape, std::size_t rank) {
  std::string text = "[";
  for (std::size_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

// Messages are built only when something is wrong: views are made in every step.
[[noreturn]] void throw_bad_shape(const char* what, std::initializer_list<std::int64_t> shape) {
  throw InvalidArgument("a tensor of shape " + shape_text(shape.begin(), shape.size()) + " " + what);
}

}  // namespace

Tensor::Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape, Device device)
    : data_(data), rank_(static_cast<int>(shape.size())), dtype_(dtype), device_(device) {
  if (shape.size() > kMaxRank) throw_bad_shape("has more than 4 axes", shape);
  std::int64_t elements = 1;
  bool fits = true;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::int64_t size = shape.begin()[i];
    if (size < 0) throw_bad_shape("has a negative size", shape);
    shape_[i] = size;
    fits = fits && !__builtin_mul_overflow(elements, size, &elements);
  }
  std::int64_t bytes = 0;
  fits = fits && !__builtin_mul_overflow(elements, static_cast<std::int64_t>(size_of(dtype)), &bytes);
  if (!fits) throw_bad_shape("has more than 2^63 bytes", shape);
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides_[i] = stride;
    stride *= shape_[i] == 0 ? 1 : shape_[i];
  }
}

std::int64_t Tensor::numel() const {
  if (rank_ == 0) return defined() ? 1 : 0;
  std::int64_t elements = 1;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank_); ++i) elements *= shape_[i];
  return elements;
}

bool Tensor::is_contiguous() const {
  if (numel() == 0) return true;
  std::int64_t expected = 1;
  for (std::size_t i = static_cast<std::size_t>(rank_); i-- > 0;) {
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

std::string Tensor::to_string() const {
  if (!defined()) return "undefined";
  return std::string(name_of(dtype_)) + shape_text(shape_.data(), static_cast<std::size_t>(rank_)) + " on " + device_.to_string();
}

Tensor Tensor::slice(int axis, std::int64_t begin, std::int64_t end) const {
  if (axis < 0 || axis >= rank_) [[unlikely]]
    throw InvalidArgument("slice: axis " + std::to_string(axis) + " is not an axis of " + to_string());
  const auto a = static_cast<std::size_t>(axis);
  if (begin < 0 || begin > end || end > shape_[a]) [[unlikely]] {
    throw InvalidArgument("slice: range [" + std::to_string(begin) + ", " + std::to_string(end) + ") is not inside axis " +
                          std::to_string(axis) + " of " + to_string());
  }
  Tensor result = *this;
  result.shape_[a] = end - begin;
  // An empty slice keeps the pointer: a step past the end would point outside the allocation.
  if (begin != end) {
    const std::int64_t elements = begin * strides_[a];
    if (dtype_ == DType::i4 && elements % 2 != 0) [[unlikely]]
      throw InvalidArgument("slice: a view of i4 that begins at element " + std::to_string(elements) + ", in the middle of a byte");
    result.data_ = static_cast<std::byte*>(data_) + bytes_of(dtype_, elements);
  }
  return result;
}

Tensor Tensor::select(int axis, std::int64_t index) const {
  Tensor result = slice(axis, index, index + 1);
  for (auto i = static_cast<std::size_t>(axis); i + 1 < static_cast<std::size_t>(rank_); ++i) {
    result.shape_[i] = result.shape_[i + 1];
    result.strides_[i] = result.strides_[i + 1];
  }
  --result.rank_;
  result.shape_[static_cast<std::size_t>(result.rank_)] = 0;
  result.strides_[static_cast<std::size_t>(result.rank_)] = 0;
  return result;
}

Tensor Tensor::split_last(std::int64_t outer, std::int64_t inner) const {
  if (rank_ < 1 || rank_ >= kMaxRank) [[unlikely]]
    throw InvalidArgument("split_last: needs 1 to 3 axes, has " + to_string());
  const auto last = static_cast<std::size_t>(rank_ - 1);
  std::int64_t product = 0;
  const bool fits = outer >= 0 && inner >= 0 && !__builtin_mul_overflow(outer, inner, &product);
  if (!fits || product != shape_[last]) [[unlikely]] {
    throw InvalidArgument("split_last: " + std::to_string(outer) + " * " + std::to_string(inner) + " is not the last size of " +
                          to_string());
  }
  Tensor result = *this;
  result.shape_[last] = outer;
  result.shape_[last + 1] = inner;
  result.strides_[last + 1] = strides_[last];
  result.strides_[last] = inner * strides_[last];
  ++result.rank_;
  return result;
}

Tensor Tensor::reshape(std::initializer_list<std::int64_t> shape) const {
  if (!is_contiguous()) [[unlikely]]
    throw InvalidArgument("reshape: needs a contiguous tensor, not a strided view of " + to_string());
  const Tensor result(data_, dtype_, shape, device_);
  if (result.numel() != numel()) [[unlikely]]
    throw InvalidArgument("reshape: " + to_string() + " does not have the elements of " + result.to_string());
  return result;
}

}  // namespace gossamer
