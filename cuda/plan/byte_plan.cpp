#include "plan/byte_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"

namespace gossamer {
namespace {

constexpr std::int64_t kTableBytes = 64;       // per warp, of table decoding
constexpr std::int64_t kMostColumns = 131072;  // of i8_i8: s32 sums

// Those of spmm_plan.cpp, until these kernels have been measured: many warps along k where rows are few. By wgmma only what has no other
// kernel, or what a shape asks for.
std::vector<SpmmShape> candidates(const SpmmProblem& problem, ByteProduct product, bool packs_x, const DeviceLimits& device) {
  if (problem.shape) return {*problem.shape};
  if (product == ByteProduct::e4m3_e4m3) {
    require(device.wgmma, "plan_spmm_bytes: products of e4m3 by e4m3 need wgmma (sm_90a); e4m3 x f16 runs on any GPU");
    return {problem.n > 64 ? SpmmShape{SpmmKernel::warp_specialized, 8, 1} : SpmmShape{SpmmKernel::warp_specialized, 12, 1}};
  }
  const std::int64_t row_blocks = (problem.m + kRecordRows - 1) / kRecordRows;
  const std::int64_t records = (problem.k + kRecordCols - 1) / kRecordCols;
  std::vector<SpmmShape> shapes;
  const bool few_rows = row_blocks <= 2 * device.num_sms, shares_x = problem.n > 8 && records > 64;
  if (few_rows && !shares_x && problem.n <= 16) shapes.push_back({SpmmKernel::mma, 1, 32, packs_x});
  shapes.push_back({SpmmKernel::mma, 4, 4, packs_x || problem.n > 8});
  return shapes;
}

}  // namespace

BytePlan plan_spmm_bytes(const SpmmProblem& problem, ByteProduct product, bool x_is_bf16, const DeviceLimits& device,
                         ByteDecoding decoding) {
  require(product != ByteProduct::i8_i8 || problem.k <= kMostColumns, "plan_spmm_bytes: sums of 8-bit products over " +
                                                                          std::to_string(problem.k) + " columns may overflow; at most " +
                                                                          std::to_string(kMostColumns));
  BytePlan plan;
  plan.product = product;
  plan.decoding = decoding;
  plan.scales_x = product == ByteProduct::i8_i8 || product == ByteProduct::e4m3_e4m3 || x_is_bf16;
  const bool has_byte_x = product == ByteProduct::i8_i8 || product == ByteProduct::e4m3_e4m3;
  SpmmProblem as_halves = problem;  // the same schedule
  as_halves.format = TileFormat::bitmap;
  as_halves.scratch_bytes = decoding == ByteDecoding::table ? kTableBytes : 0;
  const std::int64_t slot_bytes = problem.max_record_bytes + 16, n_tiles = problem.n <= 8 ? 1 : problem.n <= 16 ? 2 : 4;
  for (const SpmmShape& shape : candidates(problem, product, plan.scales_x || !problem.x_is_aligned, device)) {
    const bool is_specialized = shape.kernel == SpmmKernel::warp_specialized;
    require(is_specialized ? has_byte_x : shape.kernel == SpmmKernel::mma && product != ByteProduct::e4m3_e4m3,
            "plan_spmm_bytes: no such kernel for this product of 8-bit weights: e4m3 x e4m3 takes warp_specialized, i8 x i8 that or mma, "
            "16-bit activations mma");
    const std::int64_t warps = std::int64_t{shape.row_warps} * shape.groups;
    // Mirrors SpmmBytesLayout; the launcher refuses a configuration that disagrees.
    const std::int64_t shared =
        (warps * 16 + 127) / 128 * 128 + warps * (2 * n_tiles * 512 + *as_halves.scratch_bytes + 2 * slot_bytes) + 4;
    if (!is_specialized && shared > device.shared_bytes_per_block) continue;
    as_halves.shape = shape;
    as_halves.x_value_bytes = is_specialized ? 1 : 2;
    plan.config = plan_spmm(as_halves, device);
    plan.config.packs_x = plan.config.packs_x || plan.scales_x;
    const std::int64_t records = (problem.k + kRecordCols - 1) / kRecordCols,
                       tiles = std::int64_t{plan.config.passes} * plan.config.n_tiles;
    plan.config.packed_x_bytes = plan.config.packs_x ? tiles * records * (has_byte_x ? 512 : 1024) : 0;
    if (plan.scales_x) plan.token_scale_floats = tiles * 8;
    return plan;
  }
  throw InvalidArgument("plan_spmm_bytes: the device's shared memory is too small");
}

}  // namespace gossamer
