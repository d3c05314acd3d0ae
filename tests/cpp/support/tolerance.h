// How far a result may lie from the exact one: derived here and nowhere else, from dtypes, lengths of sums and the sizes of their terms.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace gossamer::testing {

// Half the distance of 1 to the next number: the relative error of one rounding.
inline double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f32: return std::ldexp(1.0, -24);
    case DType::f16: return std::ldexp(1.0, -11);
    case DType::bf16: return std::ldexp(1.0, -8);
    default: return 0;
  }
}

// Error of storing a number, the smallest subnormal of f16 included.
inline double storage_error(DType dtype, double exact) {
  return unit_roundoff(dtype) * std::abs(exact) + (dtype == DType::f16 ? std::ldexp(1.0, -25) : 0.0);
}

// Error of a sum of `terms` products in float32, whatever its order; magnitude = sum of |products|. Roundings are independent, so the
// error grows as the square root of their number; 4 standard deviations and 8 roundings for the work around the sum.
inline double sum_error(std::int64_t terms, double magnitude) {
  return (4 * std::sqrt(static_cast<double>(terms)) + 8) * unit_roundoff(DType::f32) * magnitude;
}

// Error of an elementwise float32 formula with an exponential, tanh or erf in it; magnitude = the largest number it handles.
inline double formula_error(double magnitude) { return 16 * unit_roundoff(DType::f32) * magnitude; }

// One exact result and how far from it the computed one may lie.
struct Bounded {
  double exact = 0;
  double tolerance = 0;
};

inline void expect_close(std::span<const float> actual, std::span<const Bounded> expected, std::string_view what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  std::size_t worst = 0;
  std::size_t outside = 0;
  double worst_excess = -1;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(double{actual[i]} - expected[i].exact);
    const bool inside = error <= expected[i].tolerance;  // false for NaN
    const double excess = inside ? 0 : std::isfinite(error) ? error - expected[i].tolerance : HUGE_VAL;
    if (!inside) ++outside;
    if (excess > worst_excess) {
      worst_excess = excess;
      worst = i;
    }
  }
  EXPECT_EQ(outside, 0U) << what << ": " << outside << " of " << actual.size() << " outside; worst at index " << worst << ": "
                         << actual[worst] << ", exact " << expected[worst].exact << ", tolerance " << expected[worst].tolerance;
}

}  // namespace gossamer::testing
