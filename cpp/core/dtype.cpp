#include "core/dtype.h"

#include <array>
#include <string>
#include <utility>

#include "core/error.h"

namespace gossamer {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 9> kNames{{
    {DType::f32, "f32"},
    {DType::f16, "f16"},
    {DType::bf16, "bf16"},
    {DType::i64, "i64"},
    {DType::i32, "i32"},
    {DType::u8, "u8"},
    {DType::i8, "i8"},
    {DType::e4m3, "e4m3"},
    {DType::i4, "i4"},
}};

}  // namespace

std::string_view name_of(DType dtype) {
  for (const auto& [candidate, name] : kNames) {
    if (candidate == dtype) return name;
  }
  return "invalid dtype";
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const auto& [dtype, candidate] : kNames) {
    if (candidate == name) return dtype;
  }
  return std::nullopt;
}

void throw_not_floating(DType dtype) {
  throw InvalidArgument("dtype " + std::string(name_of(dtype)) + " is not a floating type; expected f32, f16 or bf16");
}

float to_float(Float16 value) {
  const std::uint32_t sign = (std::uint32_t{value.bits} & 0x8000U) << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1FU;
  const std::uint32_t mantissa = value.bits & 0x3FFU;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) {  // infinity, or NaN made quiet as the hardware does
    const std::uint32_t quiet = mantissa != 0 ? 0x400000U : 0U;
    return std::bit_cast<float>(sign | 0x7F800000U | quiet | (mantissa << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

Float16 to_float16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const auto result = [sign](std::uint32_t rest) { return Float16{static_cast<std::uint16_t>(sign | rest)}; };

  if (magnitude > 0x7F800000U) return result(0x7E00U | ((magnitude >> 13) & 0x3FFU));
  if (magnitude >= 0x477FF000U) return result(0x7C00U);  // 65520 and above round to infinity
  if (magnitude >= 0x38800000U) {                        // 2^-14 and above: normal
    const std::uint32_t tie_to_even = (magnitude >> 13) & 1U;
    return result((magnitude - 0x38000000U + 0xFFFU + tie_to_even) >> 13);
  }
  if (magnitude < 0x33000000U) return result(0);  // below 2^-25
  const std::uint32_t mantissa = (magnitude & 0x7FFFFFU) | 0x800000U;
  const std::uint32_t shift = 126 - (magnitude >> 23);  // to units of 2^-24
  const std::uint32_t tie_to_even = (mantissa >> shift) & 1U;
  return result((mantissa + (1U << (shift - 1)) - 1 + tie_to_even) >> shift);
}

float to_float(Float8E4M3 value) {
  const std::uint32_t sign = (value.bits & 0x80U) << 24;
  const std::uint32_t exponent = (value.bits >> 3) & 0xFU;
  const std::uint32_t mantissa = value.bits & 7U;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-9
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7FC00000U);
  return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
}

Float8E4M3 to_float8_e4m3(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const auto result = [sign](std::uint32_t rest) { return Float8E4M3{static_cast<std::uint8_t>(sign | rest)}; };

  if (magnitude > 0x7F800000U) return result(0x7FU);
  if (magnitude >= 0x43E00000U) return result(0x7EU);  // 448 and above
  if (magnitude >= 0x3C800000U) {                      // 2^-6 and above: normal
    const std::uint32_t tie_to_even = (magnitude >> 20) & 1U;
    return result((magnitude - 0x3C000000U + 0x7FFFFU + tie_to_even) >> 20);
  }
  if (magnitude < 0x3A800000U) return result(0);  // below 2^-10
  const std::uint32_t mantissa = (magnitude & 0x7FFFFFU) | 0x800000U;
  const std::uint32_t shift = 141 - (magnitude >> 23);  // to units of 2^-9
  const std::uint32_t tie_to_even = (mantissa >> shift) & 1U;
  return result((mantissa + (1U << (shift - 1)) - 1 + tie_to_even) >> shift);
}

BFloat16 to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

}  // namespace gossamer
