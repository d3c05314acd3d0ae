#include <gtest/gtest.h>

#include "ops/sampling.h"

namespace gossamer {
namespace {

// The known answers published with Random123.
TEST(Philox, MatchesTheKnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformUsesWordZeroOfItsOwnCounter) {
  EXPECT_EQ(philox_uniform(0, 0, 0), (0x6627e8d5 + 0.5) / 4294967296.0);
  const std::uint64_t seed = 0x299f31d0a4093822;
  EXPECT_EQ(philox_uniform(seed, 7, 9), (philox4x32_10({9, 7, 0, 0}, {0xa4093822, 0x299f31d0})[0] + 0.5) / 4294967296.0);
}

TEST(Philox, EveryPartOfTheCounterMatters) {
  const double u = philox_uniform(1, 2, 3);
  EXPECT_NE(u, philox_uniform(2, 2, 3));
  EXPECT_NE(u, philox_uniform(1, 3, 3));
  EXPECT_NE(u, philox_uniform(1, 2, 4));
  EXPECT_NE(u, philox_uniform(1 + (std::uint64_t{1} << 32), 2, 3));
}

TEST(Philox, IsUniform) {
  constexpr int kBins = 64;
  constexpr int kDraws = 64000;
  int counts[kBins] = {};
  for (int position = 0; position < kDraws; ++position) {
    const double u = philox_uniform(42, 0, static_cast<std::uint32_t>(position));
    ASSERT_GT(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++counts[static_cast<int>(u * kBins)];
  }
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 103.4);  // 63 degrees of freedom, p = 0.001
}

}  // namespace
}  // namespace gossamer
