// Element types: a closed enum, its sizes and names, and visit(), the one dispatch from a DType to a C++ type.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

namespace gossamer {

enum class DType : std::uint8_t { f32, f16, bf16, i64, i32, u8, i8, e4m3, i4 };

// Storage-only half types; arithmetic happens in float.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};
// 4 exponent bits (bias 7), 3 mantissa bits, no infinity; 0x7F and 0xFF are NaN; the largest is 448.
struct Float8E4M3 {
  std::uint8_t bits;
};
// Stands for -8 .. 7, two to a byte, the first in the low bits; it has no object of its own (see nibble_at).
struct Int4 {};

// Bytes of an element; of i4, the byte that two share.
constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i64: return 8;
    case DType::u8:
    case DType::i8:
    case DType::e4m3:
    case DType::i4: return 1;
  }
  return 0;
}

// Bytes of `count` consecutive elements.
constexpr std::int64_t bytes_of(DType dtype, std::int64_t count) {
  return dtype == DType::i4 ? count / 2 + count % 2 : count * static_cast<std::int64_t>(size_of(dtype));
}

constexpr bool is_floating(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }
// Of weight values that are nothing without a scale.
constexpr bool is_scaled(DType dtype) { return dtype == DType::i8 || dtype == DType::e4m3 || dtype == DType::i4; }

// "f32", "bf16", ...: the spelling of the manifest.
std::string_view name_of(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

// Round to nearest even; NaN stays NaN.
float to_float(Float16 value);
constexpr float to_float(BFloat16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
constexpr float to_float(float value) { return value; }
constexpr float to_float(std::int8_t value) { return value; }
float to_float(Float8E4M3 value);
Float16 to_float16(float value);
BFloat16 to_bfloat16(float value);
Float8E4M3 to_float8_e4m3(float value);  // beyond 448: 448

// Number i of packed i4.
constexpr int nibble_at(const std::uint8_t* bytes, std::int64_t i) { return ((bytes[i / 2] >> (i % 2 * 4) & 15) ^ 8) - 8; }

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
template <>
constexpr DType dtype_of<std::int8_t>() {
  return DType::i8;
}
template <>
constexpr DType dtype_of<Float8E4M3>() {
  return DType::e4m3;
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

template <typename T>
inline constexpr bool is_scaled_type = std::is_same_v<T, std::int8_t> || std::is_same_v<T, Float8E4M3> || std::is_same_v<T, Int4>;

// Calls f(Tag<T>{}) with the C++ type of a weight's values, floating or scaled.
template <typename F>
decltype(auto) visit_values(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i8: return f(Tag<std::int8_t>{});
    case DType::e4m3: return f(Tag<Float8E4M3>{});
    case DType::i4: return f(Tag<Int4>{});
    default: return visit_floating(dtype, std::forward<F>(f));
  }
}

}  // namespace gossamer
