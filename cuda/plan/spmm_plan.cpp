#include "plan/spmm_plan.h"

#include <algorithm>

#include "core/error.h"

namespace gossamer {
namespace {

// Mirrors SpmmSharedLayout; launch_instance refuses a configuration that disagrees.
std::int64_t shared_bytes(const SpmmConfig& c, TileFormat format) {
  const bool csl = format == TileFormat::tiled_csl;
  const std::int64_t warps = std::int64_t{c.row_warps} * c.groups;
  const std::int64_t barriers = (warps * 16 + 127) / 128 * 128;
  return barriers + warps * (2 * c.n_tiles * 512 + (csl ? 2048 : 0) + 2 * c.slot_bytes) + (csl ? 512 : 4);
}

}  // namespace

SpmmConfig plan_spmm(const SpmmProblem& problem, const DeviceLimits& device) {
  require(problem.m >= 1 && problem.k >= 1 && problem.n >= 1, "plan_spmm: m, k and n must be at least 1");
  SpmmConfig config;
  config.n_tiles = problem.n <= 8 ? 1 : problem.n <= 16 ? 2 : 4;
  config.passes = static_cast<int>((problem.n + 8 * config.n_tiles - 1) / (8 * config.n_tiles));
  config.slot_bytes = problem.max_record_bytes + 16;  // a lane may load one value past its last
  config.dependent_launch = device.dependent_launch;
  const std::int64_t row_blocks = (problem.m + kRecordRows - 1) / kRecordRows;
  const std::int64_t records = (problem.k + kRecordCols - 1) / kRecordCols;
  // Few rows: all warps of a CTA along k, so that few CTAs have to combine their sums. From n = 9 on the loads of x weigh more: where k is
  // long, row warps share them through L1 (docs/kernel-notes.md has the measurements).
  const bool few_rows = row_blocks <= 2 * device.num_sms;
  const bool shares_x = problem.n > 8 && records > 128;
  SpmmShape choices[2] = {{4, 4}, {4, 2}};
  if (few_rows && !shares_x) {
    choices[0] = {1, 16};
    choices[1] = {1, 8};
  } else if (few_rows && records <= 256) {
    choices[0] = {2, 8};
  }
  if (problem.shape) choices[0] = *problem.shape;
  if (!problem.x_is_aligned) choices[0] = choices[1] = {1, 8};
  std::int64_t resident = 0;
  for (const SpmmShape& shape : choices) {
    config.row_warps = shape.row_warps;
    config.groups = shape.groups;
    config.shared_bytes = shared_bytes(config, problem.format);
    const std::int64_t by_registers = (config.n_tiles >= 4 ? 16 : 32) / (shape.row_warps * shape.groups);
    resident = std::min(by_registers, device.shared_bytes_per_sm / (config.shared_bytes + 1024));
    if (resident == by_registers) break;
  }
  require(resident >= 1 && config.shared_bytes <= device.shared_bytes_per_block, "plan_spmm: the device's shared memory is too small");
  const std::int64_t super_rows = (row_blocks + config.row_warps - 1) / config.row_warps;
  const std::int64_t slots = device.num_sms * resident;
  // Even shares of whole super rows where that keeps the device busy, else an even share of all units.
  const std::int64_t whole = super_rows <= slots ? super_rows * (slots / super_rows) : 0;
  config.ctas =
      static_cast<int>(std::min(10 * whole >= 9 * slots ? whole : slots, super_rows * std::max<std::int64_t>(1, records / config.groups)));
  config.partial_floats = std::int64_t{config.passes} * config.ctas * 2 * config.row_warps * 2 * config.n_tiles * 128;
  config.tickets = config.passes * super_rows * config.row_warps;
  return config;
}

std::string SpmmConfig::to_string() const {
  return "n tiles " + std::to_string(n_tiles) + ", " + std::to_string(row_warps) + "x" + std::to_string(groups) + " warps, " +
         std::to_string(ctas) + " ctas, " + std::to_string(passes) + " passes, " + std::to_string(shared_bytes / 1024) + " KiB shared";
}

}  // namespace gossamer
