#pragma once

#include "core/dtype.h"
#include "cuda_keywords.h"

struct __half {
  gossamer::Float16 value;
  __half() = default;
  explicit __half(float v) : value(gossamer::to_float16(v)) {}
  explicit operator float() const { return gossamer::to_float(value); }
};
struct alignas(4) __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float2 __half22float2(__half2 v) { return {static_cast<float>(v.x), static_cast<float>(v.y)}; }
