// Element types: a closed enum, its sizes and names, and visit(), the one dispatch from a DType to a C++ type.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

namespace gossamer {

enum class DType : std::uint8_t { f32, f16, bf16, i64, i32, u8 };

// Storage-only half types; arithmetic happens in float.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i64: return 8;
    case DType::u8: return 1;
  }
  return 0;
}

constexpr bool is_floating(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

// "f32", "bf16", ...: the spelling of the manifest.
std::string_view name_of(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

// Round to nearest even; NaN stays NaN.
float to_float(Float16 value);
constexpr float to_float(BFloat16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
constexpr float to_float(float value) { return value; }
Float16 to_float16(float value);
BFloat16 to_bfloat16(float value);

template <typename T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, Float16>) {
    return to_float16(value);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return to_bfloat16(value);
  } else {
    return static_cast<T>(value);
  }
}

template <typename T>
struct Tag {
  using type = T;
};

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<Float16>() {
  return DType::f16;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<std::int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<std::uint8_t>() {
  return DType::u8;
}

[[noreturn]] void throw_not_floating(DType dtype);

// Calls f(Tag<T>{}) with the C++ type of a floating dtype.
template <typename F>
decltype(auto) visit_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(Tag<float>{});
    case DType::f16: return f(Tag<Float16>{});
    case DType::bf16: return f(Tag<BFloat16>{});
    default: throw_not_floating(dtype);
  }
}

}  // namespace gossamer
