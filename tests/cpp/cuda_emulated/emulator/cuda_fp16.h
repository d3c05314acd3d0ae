#pragma once

#include "core/dtype.h"

struct __half {
  gossamer::Float16 value;
  __half() = default;
  explicit __half(float v) : value(gossamer::to_float16(v)) {}
  explicit operator float() const { return gossamer::to_float(value); }
};
