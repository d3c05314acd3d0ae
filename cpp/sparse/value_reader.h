// Values of a weight one after the other, as floats, whatever their type.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace gossamer {

template <typename T>
struct ValueReader {
  const T* at;
  // From value `first` on; of i4, any of the two in a byte.
  ValueReader(const void* values, std::int64_t first) : at(static_cast<const T*>(values) + first) {}
  float next() { return to_float(*at++); }
};

template <>
struct ValueReader<Int4> {
  const std::uint8_t* bytes;
  std::int64_t index;
  ValueReader(const void* values, std::int64_t first) : bytes(static_cast<const std::uint8_t*>(values)), index(first) {}
  float next() { return static_cast<float>(nibble_at(bytes, index++)); }
};

}  // namespace gossamer
