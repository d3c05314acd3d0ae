// From dtypes to the device's element types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/dtype.h"

namespace gossamer::cuda {

// Calls f(Tag<T>{}) with f16's or bf16's device type; cudaErrorInvalidValue for any other.
template <class F>
cudaError_t visit_half(DType dtype, const F& f) {
  if (dtype == DType::f16) return f(Tag<__half>{});
  if (dtype == DType::bf16) return f(Tag<__nv_bfloat16>{});
  return cudaErrorInvalidValue;
}

// The same with f32.
template <class F>
cudaError_t visit_device(DType dtype, const F& f) {
  return dtype == DType::f32 ? f(Tag<float>{}) : visit_half(dtype, f);
}

// Whether 16-byte accesses to half elements work: the pointer and every stride.
template <class... Strides>
bool is_vectorizable(const void* pointer, Strides... strides) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0 && ((strides % 8 == 0) && ...);
}

}  // namespace gossamer::cuda
