// The checks that every verb of Ops makes before its backend sees the arguments. Messages are built only on failure: a step allocates
// nothing.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include "ops/ops.h"

namespace gossamer::detail {

inline void append(std::string& out, std::string_view text) { out += text; }
inline void append(std::string& out, std::int64_t number) { out += std::to_string(number); }
inline void append(std::string& out, double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  out += text;
}
inline void append(std::string& out, DType dtype) { out += name_of(dtype); }
inline void append(std::string& out, Device device) { out += device.to_string(); }
inline void append(std::string& out, const Tensor& tensor) { out += tensor.to_string(); }

class Door {
 public:
  Door(std::string_view verb, Device device) : verb_(verb), device_(device) {}

  // Throws InvalidArgument "verb: parts..." unless ok.
  template <typename... Parts>
  void expect(bool ok, const Parts&... parts) const {
    if (!ok) [[unlikely]]
      fail(parts...);
  }

  // Rank, device, memory behind it, and a contiguous last axis; rows may be strided. Empty tensors need no memory.
  void tensor(std::string_view name, const Tensor& t, int rank) const { tensor_on(name, t, rank, device_); }
  void host_tensor(std::string_view name, const Tensor& t, int rank) const { tensor_on(name, t, rank, Device{}); }
  void tensor(std::string_view name, const Tensor& t, int rank, DType dtype) const {
    tensor(name, t, rank);
    of_dtype(name, t, dtype);
  }
  // A tensor of rank 1 with `size` elements; `of_what` says where the size comes from.
  void vector(std::string_view name, const Tensor& t, DType dtype, std::int64_t size, std::string_view of_what) const {
    tensor(name, t, 1, dtype);
    expect(t.size(0) == size, name, " is ", t, " but ", of_what, " = ", size);
  }

  void of_dtype(std::string_view name, const Tensor& t, DType dtype) const {
    expect(t.dtype() == dtype, name, " is ", t, "; it must be ", dtype);
  }
  void floating(std::string_view name, const Tensor& t) const {
    expect(is_floating(t.dtype()), name, " is ", t, "; it must be f32, f16 or bf16");
  }
  void contiguous(std::string_view name, const Tensor& t) const {
    expect(t.numel() == 0 || t.is_contiguous(), name, " is ", t, " with strided rows; it must be contiguous");
  }
  void same_shape(std::string_view a_name, const Tensor& a, std::string_view b_name, const Tensor& b) const {
    bool same = a.rank() == b.rank();
    for (int axis = 0; same && axis < a.rank(); ++axis) same = a.size(axis) == b.size(axis);
    expect(same, a_name, " is ", a, " but ", b_name, " is ", b, "; their shapes must be equal");
  }
  // Verbs that are not in place read their input after writing part of their output.
  void apart(std::string_view out_name, const Tensor& out, std::string_view in_name, const Tensor& in) const {
    expect(out.numel() == 0 || out.raw() != in.raw(), out_name, " and ", in_name, " are the same memory; this verb does not work in place");
  }

 private:
  void tensor_on(std::string_view name, const Tensor& t, int rank, Device device) const {
    expect(t.rank() == rank, name, " is ", t, "; it must have rank ", std::int64_t{rank});
    const int last = rank - 1;
    expect(t.numel() == 0 || t.defined(), name, " is ", t, " without memory");
    expect(t.device() == device, name, " is ", t, "; it must be on ", device);
    expect(t.numel() == 0 || t.size(last) == 1 || t.stride(last) == 1, name, " is ", t,
           "; its last axis must be contiguous, not of stride ", t.stride(last));
  }

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    std::string message(verb_);
    message += ": ";
    (append(message, parts), ...);
    throw InvalidArgument(message);
  }

  std::string_view verb_;
  Device device_;
};

// The checks of Ops::sample (sampling.cpp).
void check_sample(Device device, const Tensor& logits, const SampleBatch& batch, const SampleResult& result);

}  // namespace gossamer::detail
