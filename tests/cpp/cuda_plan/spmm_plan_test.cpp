#include "plan/spmm_plan.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace gossamer {
namespace {

SpmmProblem problem(std::int64_t m, std::int64_t k, std::int64_t n, std::int64_t record = 2048) {
  SpmmProblem p;
  p.m = m;
  p.k = k;
  p.n = n;
  p.max_record_bytes = record;
  return p;
}

TEST(SpmmPlan, FillsTheDeviceWithWarpsThatFit) {
  const DeviceLimits h100;
  for (const TileFormat format : {TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four}) {
    for (const std::int64_t m : {1, 31, 64, 4096, 27648, 57344}) {
      for (const std::int64_t k : {1, 63, 4096, 36864}) {
        for (const std::int64_t n : {1, 8, 9, 16, 17, 100}) {
          for (const std::int64_t record : {272, 2048, 4352, 8208}) {  // the last: Tiled-CSL of a full record
            for (const bool aligned : {true, false}) {
              SpmmProblem p = problem(m, k, n, record);
              p.format = format;
              p.x_is_aligned = aligned;
              const SpmmConfig c = plan_spmm(p, h100);
              EXPECT_LE(c.shared_bytes, h100.shared_bytes_per_block) << c.to_string();
              EXPECT_GE(c.ctas, 1);
              EXPECT_LE(c.ctas, 4 * h100.num_sms) << c.to_string();
              EXPECT_GE(c.passes * c.n_tiles * 8, n);
              EXPECT_LT((c.passes - 1) * c.n_tiles * 8, n);
              EXPECT_GE(c.slot_bytes, record + 2);
              EXPECT_TRUE(aligned || c.packs_x) << c.to_string();
              EXPECT_EQ(c.packed_x_bytes, c.packs_x ? (k + 63) / 64 * c.passes * c.n_tiles * 1024 : 0);
            }
          }
        }
      }
    }
  }
}

TEST(SpmmPlan, SmallMatricesSplitKInsideACta) {
  const SpmmConfig c = plan_spmm(problem(4096, 4096, 8), DeviceLimits{});
  EXPECT_EQ(c.row_warps, 1);
  EXPECT_EQ(c.groups, 32);
  EXPECT_EQ(c.ctas, 128);  // a row block each
  EXPECT_EQ(plan_spmm(problem(8192, 8192, 8), DeviceLimits{}).ctas, 256);
  EXPECT_EQ(plan_spmm(problem(27648, 9216, 8), DeviceLimits{}).row_warps, 4);
  EXPECT_EQ(plan_spmm(problem(4096, 14336, 8), DeviceLimits{}).row_warps, 1);
  EXPECT_TRUE(plan_spmm(problem(4096, 14336, 16), DeviceLimits{}).packs_x);  // long k: packing x pays
}

TEST(SpmmPlan, AShapeCanBeAskedFor) {
  SpmmProblem p = problem(4096, 4096, 8);
  p.shape = SpmmShape{SpmmKernel::mma, 4, 4};
  EXPECT_EQ(plan_spmm(p, DeviceLimits{}).row_warps, 4);
  p.max_record_bytes = 8208;
  p.shape = SpmmShape{SpmmKernel::mma, 16, 2};
  EXPECT_THROW(plan_spmm(p, DeviceLimits{}), InvalidArgument);  // does not fit
}

TEST(SpmmPlan, ManyTokensRunOnWarpgroups) {
  const SpmmConfig c = plan_spmm(problem(27648, 9216, 128), DeviceLimits{});
  EXPECT_EQ(c.kernel, SpmmKernel::wgmma);
  EXPECT_EQ(c.passes, 1);
  DeviceLimits a100;
  a100.wgmma = false;
  EXPECT_EQ(plan_spmm(problem(27648, 9216, 128), a100).kernel, SpmmKernel::mma);
}

TEST(SpmmPlan, WarpSpecializedForLargeWeightsOf60Percent) {
  const auto kernel = [](std::int64_t m, std::int64_t k, std::int64_t n, std::int64_t record_bytes) {
    return plan_spmm(problem(m, k, n, record_bytes), DeviceLimits{}).kernel;
  };
  EXPECT_EQ(kernel(27648, 9216, 64, 2080), SpmmKernel::warp_specialized);
  EXPECT_EQ(kernel(4096, 14336, 33, 1300), SpmmKernel::warp_specialized);
  EXPECT_EQ(kernel(27648, 9216, 64, 2480), SpmmKernel::wgmma);  // 50 %
  EXPECT_EQ(kernel(4096, 4096, 64, 1300), SpmmKernel::wgmma);
  EXPECT_EQ(kernel(27648, 9216, 65, 1300), SpmmKernel::wgmma);
  EXPECT_EQ(kernel(27648, 9216, 32, 1300), SpmmKernel::mma);
}

TEST(SpmmPlan, WarpSpecializedWhereAskedForWithAsManyStagesAsFit) {
  SpmmProblem p = problem(27648, 9216, 64, 1900);
  p.shape = SpmmShape{SpmmKernel::warp_specialized, 16, 1};
  const SpmmConfig c = plan_spmm(p, DeviceLimits{});
  EXPECT_EQ(c.kernel, SpmmKernel::warp_specialized);
  EXPECT_EQ(c.n_tiles, 8);
  EXPECT_TRUE(c.packs_x);
  EXPECT_GE(c.stages, 6);
  EXPECT_LE(c.shared_bytes, DeviceLimits{}.shared_bytes_per_block);
  p.max_record_bytes = 4352;  // a record without a zero
  EXPECT_LT(plan_spmm(p, DeviceLimits{}).stages, c.stages);
  p.format = TileFormat::tiled_csl;
  p.max_record_bytes = 8208;
  EXPECT_THROW(plan_spmm(p, DeviceLimits{}), InvalidArgument);  // three stages do not fit
  p = problem(4096, 4096, 1000, 1900);
  p.shape = SpmmShape{SpmmKernel::warp_specialized, 12, 1};
  EXPECT_EQ(plan_spmm(p, DeviceLimits{}).passes, 8);  // of 128 tokens
}

TEST(SpmmPlan, DenseSpotsTakeFewerWarps) {
  const SpmmConfig sparse = plan_spmm(problem(27648, 9216, 8, 2100), DeviceLimits{}),
                   dense = plan_spmm(problem(27648, 9216, 8, 4352), DeviceLimits{});
  EXPECT_GT(sparse.groups, dense.groups);
}

TEST(SpmmPlan, EveryWarpThatEndsASegmentHasATicket) {
  const SpmmConfig rows = plan_spmm(problem(9216, 9216, 16), DeviceLimits{}), k = plan_spmm(problem(4096, 4096, 16), DeviceLimits{});
  EXPECT_EQ(rows.tickets, 9216 / 32);
  EXPECT_EQ(k.groups, 32);
  EXPECT_EQ(k.tickets, 4096 / 32 * 4);  // two tiles of rows, two of tokens
}

TEST(SpmmPlan, TwoFourRunsOnMma) {
  SpmmProblem p = problem(9216, 9216, 128);
  p.format = TileFormat::two_four;
  EXPECT_EQ(plan_spmm(p, DeviceLimits{}).kernel, SpmmKernel::mma);  // it has no wgmma kernel
}

// The order of a sum is that of row warps, groups and CTAs (spmm_schedule.h): the same for every batch, and however x lies.
TEST(SpmmPlan, BatchInvariantSumsHaveOneOrder) {
  for (const TileFormat format : {TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four}) {
    for (const std::int64_t m : {1, 130, 4096, 27648}) {
      for (const std::int64_t k : {64, 4096, 14336}) {
        for (const std::int64_t record : {272, 2048, 4352, 8208}) {
          SpmmProblem p = problem(m, k, 1, record);
          p.format = format;
          p.batch_invariant = true;
          const SpmmConfig first = plan_spmm(p, DeviceLimits{});
          for (const std::int64_t n : {2, 8, 9, 16, 17, 32, 33, 100, 2048}) {
            for (const bool aligned : {true, false}) {
              p.n = n;
              p.x_is_aligned = aligned;
              const SpmmConfig c = plan_spmm(p, DeviceLimits{});
              EXPECT_EQ(c.kernel, SpmmKernel::mma);
              EXPECT_EQ(c.row_warps, first.row_warps);
              EXPECT_EQ(c.groups, first.groups);
              EXPECT_EQ(c.ctas, first.ctas);
              EXPECT_TRUE(c.packs_x);
              EXPECT_LE(c.shared_bytes, DeviceLimits{}.shared_bytes_per_block);
            }
          }
        }
      }
    }
  }
}

TEST(SpmmPlan, RefusesEmptyProblems) {
  EXPECT_THROW(plan_spmm(problem(0, 1, 1), DeviceLimits{}), InvalidArgument);
  EXPECT_THROW(plan_spmm(problem(1, 1, 0), DeviceLimits{}), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
