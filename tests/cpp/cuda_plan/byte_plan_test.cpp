// Plans for 8-bit weights: workspaces, who packs x, and that every weight fits.
#include "plan/byte_plan.h"

#include <gtest/gtest.h>

namespace gossamer {
namespace {

constexpr std::int64_t kFullRecord = 256 + 32 * 64;  // bytes: masks and all values

SpmmProblem problem(std::int64_t m, std::int64_t k, std::int64_t n, std::int64_t record = 1296) {
  SpmmProblem p;
  p.m = m;
  p.k = k;
  p.n = n;
  p.max_record_bytes = record;
  p.x_is_aligned = k % 8 == 0;
  return p;
}

TEST(BytePlan, XIsScaledForBytesAndForBfloat16) {
  const DeviceLimits h100;
  const BytePlan direct = plan_spmm_bytes(problem(27648, 9216, 8), ByteProduct::e4m3_f16, false, h100);
  EXPECT_FALSE(direct.scales_x || direct.config.packs_x);
  EXPECT_EQ(direct.config.packed_x_bytes, 0);
  EXPECT_EQ(direct.token_scale_floats, 0);

  const BytePlan shared = plan_spmm_bytes(problem(27648, 9216, 16), ByteProduct::e4m3_f16, false, h100);
  EXPECT_TRUE(shared.config.packs_x);  // row warps share x from two n tiles on
  EXPECT_FALSE(shared.scales_x);
  EXPECT_EQ(shared.config.packed_x_bytes, 144 * 2 * 1024);

  const BytePlan bf16 = plan_spmm_bytes(problem(27648, 9216, 8), ByteProduct::e4m3_f16, true, h100);
  EXPECT_TRUE(bf16.scales_x && bf16.config.packs_x);
  EXPECT_EQ(bf16.config.packed_x_bytes, 144 * 1024);
  EXPECT_EQ(bf16.token_scale_floats, 8);

  const BytePlan bytes = plan_spmm_bytes(problem(27648, 9216, 33), ByteProduct::i8_i8, false, h100);
  EXPECT_TRUE(bytes.scales_x && bytes.config.packs_x);
  EXPECT_EQ(bytes.config.passes, 2);
  EXPECT_EQ(bytes.config.packed_x_bytes, 2 * 144 * 4 * 512);
  EXPECT_EQ(bytes.token_scale_floats, 2 * 4 * 8);
}

TEST(BytePlan, FewRowsGetManyWarpsAlongK) {
  const DeviceLimits h100;
  const BytePlan few = plan_spmm_bytes(problem(4096, 4096, 8), ByteProduct::i8_i8, false, h100);
  EXPECT_EQ(few.config.row_warps, 1);
  EXPECT_EQ(few.config.groups, 32);
  const BytePlan many = plan_spmm_bytes(problem(57344, 8192, 8), ByteProduct::i8_i8, false, h100);
  EXPECT_EQ(many.config.row_warps, 4);
  EXPECT_EQ(many.config.groups, 4);
}

TEST(BytePlan, FullRecordsFitForAnyNumberOfTokens) {
  const DeviceLimits h100;
  for (const ByteProduct product : {ByteProduct::e4m3_f16, ByteProduct::i8_f16, ByteProduct::i8_i8}) {
    for (const std::int64_t n : {1, 8, 9, 16, 17, 32, 200}) {
      for (const std::int64_t m : {1, 512, 4096, 57344}) {
        const BytePlan plan = plan_spmm_bytes(problem(m, 4096, n, kFullRecord), product, false, h100);
        EXPECT_LE(plan.config.shared_bytes, h100.shared_bytes_per_block);
        EXPECT_GE(plan.config.passes * plan.config.n_tiles * 8, n);
        EXPECT_EQ(plan.config.row_warps * plan.config.groups == 32, plan.config.row_warps == 1) << "no kernel has this arrangement";
        EXPECT_LE(plan.config.n_tiles, plan.config.row_warps == 1 ? 2 : 4);
        EXPECT_TRUE(plan.config.packs_x || plan.config.n_tiles == 1 || plan.config.row_warps == 1) << "no kernel reads x this way";
      }
    }
  }
}

TEST(BytePlan, RefusesSumsThatMayOverflow) {
  const DeviceLimits h100;
  EXPECT_NO_THROW(plan_spmm_bytes(problem(64, 131072, 1), ByteProduct::i8_i8, false, h100));
  EXPECT_THROW(plan_spmm_bytes(problem(64, 131136, 1), ByteProduct::i8_i8, false, h100), InvalidArgument);
  EXPECT_NO_THROW(plan_spmm_bytes(problem(64, 131136, 1), ByteProduct::i8_f16, false, h100));
}

TEST(BytePlan, E4m3ByE4m3TakesWgmma) {
  const DeviceLimits h100;
  const BytePlan plan = plan_spmm_bytes(problem(27648, 9216, 64), ByteProduct::e4m3_e4m3, false, h100);
  EXPECT_EQ(plan.config.kernel, SpmmKernel::warp_specialized);
  EXPECT_EQ(plan.config.n_tiles, 8);
  EXPECT_TRUE(plan.scales_x && plan.config.packs_x);
  EXPECT_EQ(plan.config.packed_x_bytes, 144 * 8 * 512);
  EXPECT_EQ(plan.token_scale_floats, 64);
  EXPECT_EQ(plan.config.stages, 8);
  EXPECT_EQ(plan_spmm_bytes(problem(27648, 9216, 128), ByteProduct::e4m3_e4m3, false, h100).config.passes, 1);
  EXPECT_EQ(plan_spmm_bytes(problem(27648, 9216, 300), ByteProduct::e4m3_e4m3, false, h100).config.passes, 3);

  DeviceLimits a100;
  a100.wgmma = false;
  EXPECT_THROW(plan_spmm_bytes(problem(64, 64, 64), ByteProduct::e4m3_e4m3, false, a100), InvalidArgument);
}

TEST(BytePlan, WgmmaMultipliesBytesByBytesWhereAShapeAsksForIt) {
  const DeviceLimits h100;
  SpmmProblem p = problem(27648, 9216, 64, kFullRecord);
  EXPECT_EQ(plan_spmm_bytes(p, ByteProduct::i8_i8, false, h100).config.kernel, SpmmKernel::mma);
  for (const SpmmShape shape : {SpmmShape{SpmmKernel::warp_specialized, 8, 2}, SpmmShape{SpmmKernel::warp_specialized, 16, 1}}) {
    p.shape = shape;
    for (const ByteProduct product : {ByteProduct::i8_i8, ByteProduct::e4m3_e4m3}) {
      const BytePlan plan = plan_spmm_bytes(p, product, false, h100);
      EXPECT_EQ(plan.config.n_tiles, 8);
      EXPECT_GE(plan.config.stages, 3);
      EXPECT_LE(plan.config.shared_bytes, h100.shared_bytes_per_block);
    }
    EXPECT_THROW(plan_spmm_bytes(p, ByteProduct::e4m3_f16, false, h100), InvalidArgument);
  }
  p.shape = SpmmShape{SpmmKernel::mma, 4, 4, true};
  EXPECT_THROW(plan_spmm_bytes(p, ByteProduct::e4m3_e4m3, false, h100), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
