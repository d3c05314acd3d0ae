// Tensor: a trivially copyable strided view. It owns nothing; Buffer owns.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"

namespace gossamer {

class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  Tensor() = default;
  // A contiguous row-major view.
  Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape, Device device = {});

  bool defined() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  std::int64_t size(int axis) const { return shape_[static_cast<std::size_t>(axis)]; }      // elements
  std::int64_t stride(int axis) const { return strides_[static_cast<std::size_t>(axis)]; }  // elements
  std::int64_t numel() const;
  std::int64_t nbytes() const { return bytes_of(dtype_, numel()); }  // of a contiguous one
  bool is_contiguous() const;
  std::string to_string() const;  // "bf16[3, 4] on cpu", for messages

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    check(dtype_of<std::remove_const_t<T>>() == dtype_, "Tensor::data: the element type is not the tensor's dtype");
    return static_cast<T*>(data_);
  }
  // Pointer to row i of axis 0.
  template <typename T>
  T* row(std::int64_t i) const {
    return data<T>() + i * strides_[0];
  }

  // Views; none copies. [begin, end) along an axis; the other strides stay. Of i4, a view begins on a byte.
  Tensor slice(int axis, std::int64_t begin, std::int64_t end) const;
  Tensor rows(std::int64_t begin, std::int64_t end) const { return slice(0, begin, end); }
  Tensor select(int axis, std::int64_t index) const;  // drops the axis
  // The last axis [.., a*b] becomes [.., a, b]; works on strided rows.
  Tensor split_last(std::int64_t outer, std::int64_t inner) const;
  Tensor reshape(std::initializer_list<std::int64_t> shape) const;  // contiguous only

 private:
  void* data_ = nullptr;
  std::array<std::int64_t, kMaxRank> shape_{};
  std::array<std::int64_t, kMaxRank> strides_{};
  int rank_ = 0;
  DType dtype_ = DType::f32;
  Device device_{};
};
static_assert(std::is_trivially_copyable_v<Tensor>);

}  // namespace gossamer
