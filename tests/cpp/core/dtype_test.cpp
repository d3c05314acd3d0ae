#include "core/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"

namespace gossamer {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The definition of the format, in double: sign, 5 exponent bits with bias 15, 10 mantissa bits.
double float16_by_definition(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

TEST(Float16, EveryPatternHasItsDefinedValue) {
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const double expected = float16_by_definition(bits);
    const float actual = to_float(Float16{bits});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << pattern;
    } else {
      ASSERT_EQ(actual, static_cast<float>(expected)) << pattern;
      ASSERT_EQ(std::signbit(actual), (bits & 0x8000) != 0) << pattern;
    }
  }
}

TEST(Float16, EveryPatternSurvivesTheRoundTrip) {
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const Float16 back = to_float16(to_float(Float16{bits}));
    if (std::isnan(float16_by_definition(bits))) {
      ASSERT_TRUE(std::isnan(to_float(back))) << pattern;
    } else {
      ASSERT_EQ(back.bits, bits);
    }
  }
}

// Between each finite pattern and the next: the midpoint goes to the even one, its float neighbours to the nearer one.
TEST(Float16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (unsigned sign : {0U, 0x8000U}) {
    for (unsigned pattern = 0; pattern < 0x7C00U; ++pattern) {
      const unsigned low = sign | pattern;
      const unsigned high = low + 1;  // 0x7C00 is infinity: the values beyond the largest finite one round as if it were 2^16
      const double low_value = float16_by_definition(static_cast<std::uint16_t>(low));
      const double high_value =
          pattern + 1 == 0x7C00U ? (sign != 0 ? -65536.0 : 65536.0) : float16_by_definition(static_cast<std::uint16_t>(high));
      const auto middle = static_cast<float>((low_value + high_value) / 2);
      const unsigned even = pattern % 2 == 0 ? low : high;
      ASSERT_EQ(to_float16(middle).bits, even) << low;
      ASSERT_EQ(to_float16(std::nextafter(middle, 0.0F)).bits, low) << low;
      ASSERT_EQ(to_float16(std::nextafter(middle, sign != 0 ? -kInfinity : kInfinity)).bits, high) << low;
    }
  }
}

TEST(Float16, ExtremesOverflowAndUnderflow) {
  EXPECT_EQ(to_float16(std::numeric_limits<float>::max()).bits, 0x7C00);
  EXPECT_EQ(to_float16(-kInfinity).bits, 0xFC00);
  EXPECT_EQ(to_float16(std::numeric_limits<float>::denorm_min()).bits, 0);
  EXPECT_EQ(to_float16(-std::numeric_limits<float>::denorm_min()).bits, 0x8000);
  EXPECT_TRUE(std::isnan(to_float(to_float16(std::numeric_limits<float>::signaling_NaN()))));
}

TEST(BFloat16, EveryPatternSurvivesTheRoundTrip) {
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const BFloat16 value{static_cast<std::uint16_t>(pattern)};
    const float wide = to_float(value);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(wide), pattern << 16);
    if (std::isnan(wide)) {
      ASSERT_TRUE(std::isnan(to_float(to_bfloat16(wide)))) << pattern;
    } else {
      ASSERT_EQ(to_bfloat16(wide).bits, pattern);
    }
  }
}

TEST(BFloat16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (unsigned sign : {0U, 0x8000U}) {
    for (unsigned pattern = 0; pattern < 0x7F80U; ++pattern) {
      const std::uint32_t low = sign | pattern;
      const std::uint32_t middle = (low << 16) | 0x8000U;
      ASSERT_EQ(to_bfloat16(std::bit_cast<float>(middle)).bits, pattern % 2 == 0 ? low : low + 1) << low;
      ASSERT_EQ(to_bfloat16(std::bit_cast<float>(middle - 1)).bits, low);
      ASSERT_EQ(to_bfloat16(std::bit_cast<float>(middle + 1)).bits, low + 1);
    }
  }
}

TEST(BFloat16, NaNWhosePayloadIsInTheLowBitsStaysNaN) {
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0x7F800001U)))));
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(std::bit_cast<float>(0xFFFFFFFFU)))));
}

// The definition: sign, 4 exponent bits with bias 7, 3 mantissa bits, no infinity.
double float8_by_definition(std::uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  const double sign = (bits & 0x80) != 0 ? -1.0 : 1.0;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  return sign * (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

TEST(Float8E4M3, EveryPatternHasItsDefinedValueAndSurvivesTheRoundTrip) {
  for (unsigned pattern = 0; pattern < 256; ++pattern) {
    const auto bits = static_cast<std::uint8_t>(pattern);
    const double expected = float8_by_definition(bits);
    const float actual = to_float(Float8E4M3{bits});
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(actual)) << pattern;
      EXPECT_EQ(to_float8_e4m3(actual).bits & 0x7F, 0x7F) << pattern;
      continue;
    }
    EXPECT_EQ(actual, static_cast<float>(expected)) << pattern;
    EXPECT_EQ(std::signbit(actual), (bits & 0x80) != 0) << pattern;
    EXPECT_EQ(to_float8_e4m3(actual).bits, bits);
  }
}

TEST(Float8E4M3, RoundsToNearestEvenBetweenAllNeighboursAndSaturates) {
  for (unsigned sign : {0U, 0x80U}) {
    for (unsigned pattern = 0; pattern < 0x7E; ++pattern) {
      const unsigned low = sign | pattern;
      const unsigned high = low + 1;
      const auto middle = static_cast<float>(
          (float8_by_definition(static_cast<std::uint8_t>(low)) + float8_by_definition(static_cast<std::uint8_t>(high))) / 2);
      EXPECT_EQ(to_float8_e4m3(middle).bits, pattern % 2 == 0 ? low : high) << low;
      EXPECT_EQ(to_float8_e4m3(std::nextafter(middle, 0.0F)).bits, low) << low;
      EXPECT_EQ(to_float8_e4m3(std::nextafter(middle, sign != 0 ? -kInfinity : kInfinity)).bits, high) << low;
    }
    for (const float large : {448.0F, 460.0F, 1e9F, kInfinity}) EXPECT_EQ(to_float8_e4m3(sign != 0 ? -large : large).bits, sign | 0x7E);
  }
}

TEST(Int4, NibblesAreSignedAndTheFirstIsLow) {
  const std::uint8_t bytes[] = {0x8F, 0x70};
  EXPECT_EQ(nibble_at(bytes, 0), -1);
  EXPECT_EQ(nibble_at(bytes, 1), -8);
  EXPECT_EQ(nibble_at(bytes, 2), 0);
  EXPECT_EQ(nibble_at(bytes, 3), 7);
  EXPECT_EQ(bytes_of(DType::i4, 3), 2);
  EXPECT_EQ(bytes_of(DType::i4, 4), 2);
  EXPECT_EQ(bytes_of(DType::f16, 3), 6);
}

TEST(DType, NamesAndSizesAgree) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32, DType::u8, DType::i8, DType::e4m3, DType::i4}) {
    EXPECT_EQ(parse_dtype(name_of(dtype)), dtype);
  }
  EXPECT_EQ(parse_dtype("F32"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
  EXPECT_EQ(size_of(DType::bf16), 2U);
  EXPECT_EQ(size_of(DType::i64), 8U);
}

TEST(DType, VisitFloatingGivesTheTypeAndRefusesIntegers) {
  EXPECT_EQ(visit_floating(DType::bf16, [](auto tag) { return dtype_of<typename decltype(tag)::type>(); }), DType::bf16);
  EXPECT_THROW(visit_floating(DType::i64, [](auto) {}), InvalidArgument);
  EXPECT_THROW(visit_values(DType::u8, [](auto) {}), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
