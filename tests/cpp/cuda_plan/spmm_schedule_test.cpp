#include "kernels/spmm_schedule.h"

#include <gtest/gtest.h>

namespace gossamer {
namespace {

// Every unit belongs to exactly one CTA, owner() knows which, and shares differ by at most one unit.
TEST(SpmmSchedule, SharesAreContiguousEvenAndComplete) {
  for (const int super_rows : {1, 3, 128, 216}) {
    for (const int records : {1, 2, 64, 577}) {
      for (const int ctas : {1, 7, 132, 264}) {
        const SpmmSchedule s{super_rows, records, ctas};
        if (ctas > s.units()) continue;
        EXPECT_EQ(s.begin(0), 0);
        EXPECT_EQ(s.begin(ctas), s.units());
        const std::int64_t share = s.units() / ctas;
        for (int c = 0; c < ctas; ++c) {
          const std::int64_t length = s.begin(c + 1) - s.begin(c);
          EXPECT_GE(length, share);
          EXPECT_LE(length, share + 1);
          EXPECT_EQ(s.owner(s.begin(c)), c);
          EXPECT_EQ(s.owner(s.begin(c + 1) - 1), c);
        }
      }
    }
  }
}

}  // namespace
}  // namespace gossamer
