#pragma once

#include "core/dtype.h"

struct __nv_bfloat16 {
  gossamer::BFloat16 value;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float v) : value(gossamer::to_bfloat16(v)) {}
  explicit operator float() const { return gossamer::to_float(value); }
};
