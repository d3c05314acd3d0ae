// Where sums lie in shared memory on their way out: every element once, no bank conflicts, and room for all that is written.
#include "kernels/spmm_sums.h"

#include <gtest/gtest.h>

#include <set>

namespace gossamer {
namespace {

TEST(SpmmSums, EveryElementHasItsPlaceAndWarpsMeetNoConflicts) {
  for (const int n_tiles : {1, 2, 4}) {
    std::set<int> places;
    for (int t = 0; t < 2 * n_tiles; ++t) {  // as store_sums writes: tile t / n_tiles, tokens t % n_tiles * 8 ..
      for (int i = 0; i < 4; ++i) {
        std::set<int> banks;
        for (int lane = 0; lane < 32; ++lane) {
          const int at = sum_index(t % n_tiles * 8 + 2 * (lane % 4) + i % 2, t / n_tiles * 16 + lane / 4 + 8 * (i / 2));
          EXPECT_LT(at, n_tiles * 256);
          EXPECT_TRUE(places.insert(at).second);
          banks.insert(at % 32);
        }
        EXPECT_EQ(banks.size(), 32U);
      }
    }
    for (int token = 0; token < 8 * n_tiles; ++token) {  // as finish_segment reads
      std::set<int> banks;
      for (int row = 0; row < 32; ++row) {
        EXPECT_EQ(places.count(sum_index(token, row)), 1U);
        banks.insert(sum_index(token, row) % 32);
      }
      EXPECT_EQ(banks.size(), 32U);
    }
  }
}

TEST(SpmmSums, PartialsHoldEveryLineOfEveryWarp) {
  for (const int n_tiles : {1, 2, 4}) {
    for (const auto& [row_warps, groups] : {std::pair{4, 4}, {4, 2}, {1, 8}, {1, 16}, {1, 32}, {4, 3}}) {
      std::set<int> lines, tokens;
      for (int warp = 0; warp < row_warps * groups; ++warp) {
        for (int j = 0; warp / row_warps + j * groups < 8 * n_tiles; ++j) {
          const int line = j * row_warps * groups + warp;
          EXPECT_LT(line, spread_lines(n_tiles, row_warps, groups));
          EXPECT_TRUE(lines.insert(line).second);
          tokens.insert((warp / row_warps + j * groups) * row_warps + warp % row_warps);
        }
      }
      EXPECT_EQ(lines.size(), static_cast<std::size_t>(8 * n_tiles * row_warps));
      EXPECT_EQ(tokens.size(), lines.size());
    }
  }
}

}  // namespace
}  // namespace gossamer
