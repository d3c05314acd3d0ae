#include "plan/spmm_plan.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "kernels/spmm_schedule.h"

namespace gossamer {
namespace {

constexpr int kMinStages = 3, kMaxStages = 8;  // of the warp-specialised kernel
constexpr std::int64_t kMostTokensOfMma = 32;  // per pass

std::int64_t up_to_128(std::int64_t bytes) { return (bytes + 127) / 128 * 128; }

// Mirrors SpmmSharedLayout, SpmmWgmmaLayout and WarpSpecializedLayout; the launchers refuse a configuration that disagrees.
std::int64_t shared_bytes(const SpmmConfig& c, const SpmmProblem& problem) {
  const TileFormat format = problem.format;
  const std::int64_t warps = std::int64_t{c.row_warps} * c.groups,
                     scratch = problem.scratch_bytes.value_or(format == TileFormat::bitmap ? 0 : 2048);
  const std::int64_t overread = format == TileFormat::bitmap ? 4 : format == TileFormat::tiled_csl ? 512 : 128;
  if (c.kernel == SpmmKernel::mma) return up_to_128(warps * 16) + warps * (2 * c.n_tiles * 512 + scratch + 2 * c.slot_bytes) + overread;
  if (c.kernel == SpmmKernel::warp_specialized) {
    const std::int64_t stage = up_to_128(c.n_tiles * 512 * problem.x_value_bytes + c.row_warps / 2 * c.slot_bytes);
    return c.groups * kMaxStages * 16 + 512 + warps * scratch + c.groups * c.stages * stage + overread;
  }
  const std::int64_t summed = std::int64_t{std::max(c.groups - 1, 1)} * c.row_warps * 512;  // bytes per fragment
  const std::int64_t rings = warps / 2;
  return up_to_128(rings * 32 + c.groups * 56) + 384 + summed * std::min(c.n_tiles, 2) + std::int64_t{c.groups} * 3 * c.n_tiles * 1024 +
         warps * scratch + rings * 4 * c.slot_bytes + overread;
}

// CTAs that share an SM, as far as registers go.
std::int64_t resident_by_registers(const SpmmConfig& c) {
  return c.kernel == SpmmKernel::mma ? (c.n_tiles >= 4 ? 16 : 32) / (c.row_warps * c.groups) : 1;
}

// Where the warp-specialised kernel beat the other one (docs/kernel-notes.md): large weights of 60 % and more, as bitmaps.
bool is_for_specialists(const SpmmProblem& problem) {
  constexpr std::int64_t kFewestWeights = std::int64_t{1} << 25, kMaskBytes = kRecordRows * kRecordCols / 8;
  constexpr double kMostDense = 0.46;  // of the fullest record: 0.44 at most of a random weight of 60 %
  return problem.n <= 64 && problem.format == TileFormat::bitmap && problem.m * problem.k >= kFewestWeights &&
         static_cast<double>(problem.max_record_bytes - kMaskBytes) <= kMostDense * 2 * kRecordRows * kRecordCols;
}

// The arrangements worth trying, best first; each later one needs less shared memory. docs/kernel-notes.md has the measurements behind
// them.
std::vector<SpmmShape> candidates(const SpmmProblem& problem, const DeviceLimits& device) {
  if (problem.shape) return {*problem.shape};
  if (problem.batch_invariant) return {{SpmmKernel::mma, 4, 4, true}, {SpmmKernel::mma, 4, 2, true}};
  const std::int64_t row_blocks = (problem.m + kRecordRows - 1) / kRecordRows;
  const std::int64_t records = (problem.k + kRecordCols - 1) / kRecordCols;
  std::vector<SpmmShape> shapes;
  const bool few_rows = row_blocks <= 2 * device.num_sms;
  if (problem.n > 32 && device.wgmma && problem.format != TileFormat::two_four) {
    if (is_for_specialists(problem)) shapes.push_back({SpmmKernel::warp_specialized, 8, 2});
    if (problem.n <= 64 && !few_rows) shapes.push_back({SpmmKernel::wgmma, 16, 1});
    shapes.push_back({SpmmKernel::wgmma, 8, 2});
  }
  // Few rows: all warps of a CTA along k, so that few CTAs have to combine their sums. From n = 9 on the loads of x weigh more: where k is
  // long, packing them pays, and row warps share them through L1.
  const bool shares_x = problem.n > 8 && records > 64;
  if (problem.x_is_aligned && few_rows && !shares_x) {
    // One CTA of 32 warps an SM, where rows come out even: nothing is left to combine across CTAs.
    const bool comes_out_even = row_blocks <= device.num_sms && 10 * row_blocks * (device.num_sms / row_blocks) >= 9 * device.num_sms;
    if (comes_out_even && problem.n <= 16) shapes.push_back({SpmmKernel::mma, 1, 32});
    shapes.insert(shapes.end(), {{SpmmKernel::mma, 1, 16}, {SpmmKernel::mma, 1, 8}});
  } else {
    const bool packs_x = problem.n > 8 || !problem.x_is_aligned;
    shapes.insert(shapes.end(), {{SpmmKernel::mma, 4, 4, packs_x}, {SpmmKernel::mma, 4, 2, packs_x}});
  }
  return shapes;
}

// CTAs for the super rows: whole rows each, or the same number of CTAs to each row, where that keeps nearly all slots busy, since sums then
// stay within a CTA or few; else all slots, with an even share of all units.
std::int64_t even_share(std::int64_t super_rows, std::int64_t slots) {
  if (super_rows <= slots) {
    const std::int64_t whole = super_rows * (slots / super_rows);
    return 10 * whole >= 9 * slots ? whole : slots;
  }
  for (std::int64_t ctas = slots; 20 * ctas >= 19 * slots; --ctas) {
    if (super_rows % ctas == 0) return ctas;
  }
  return slots;
}

int tiles_per_pass(const SpmmShape& shape, std::int64_t n, int x_value_bytes) {
  const bool is_specialized = shape.kernel == SpmmKernel::warp_specialized, has_bytes = x_value_bytes == 1;
  if (has_bytes && is_specialized) return shape.row_warps * shape.groups > 8 ? 8 : 16;  // sums take two registers: 128 tokens, few warps
  const int most = shape.kernel == SpmmKernel::mma ? kMostTokensOfMma / 8 : 16;
  int tiles = is_specialized ? 4 : 1;
  while (tiles < most && 8 * tiles < n) tiles *= 2;
  return tiles;
}

}  // namespace

SpmmConfig plan_spmm(const SpmmProblem& problem, const DeviceLimits& device) {
  require(problem.m >= 1 && problem.k >= 1 && problem.n >= 1, "plan_spmm: m, k and n must be at least 1");
  const std::int64_t row_blocks = (problem.m + kRecordRows - 1) / kRecordRows;
  const std::int64_t records = (problem.k + kRecordCols - 1) / kRecordCols;
  SpmmConfig config;
  config.slot_bytes = problem.max_record_bytes + 16;  // a lane may load one value past its last
  config.dependent_launch = device.dependent_launch;
  std::int64_t resident = 0;
  for (const SpmmShape& shape : candidates(problem, device)) {
    config.kernel = shape.kernel;
    config.row_warps = shape.row_warps;
    config.groups = shape.groups;
    config.packs_x = shape.packs_x || shape.kernel != SpmmKernel::mma || !problem.x_is_aligned;
    config.n_tiles = tiles_per_pass(shape, problem.batch_invariant ? kMostTokensOfMma : problem.n, problem.x_value_bytes);
    config.stages = shape.kernel == SpmmKernel::warp_specialized ? kMaxStages : 0;
    config.shared_bytes = shared_bytes(config, problem);
    while (config.stages > kMinStages && config.shared_bytes > device.shared_bytes_per_block) {
      --config.stages;
      config.shared_bytes = shared_bytes(config, problem);
    }
    const std::int64_t by_registers = resident_by_registers(config);
    resident = std::min(by_registers, device.shared_bytes_per_sm / (config.shared_bytes + 1024));
    if (resident == by_registers && config.shared_bytes <= device.shared_bytes_per_block) break;
  }
  require(resident >= 1 && config.shared_bytes <= device.shared_bytes_per_block, "plan_spmm: the device's shared memory is too small");
  if (problem.batch_invariant) {  // arranged as for the most tokens: from here on nothing depends on n but the number of products
    config.n_tiles = tiles_per_pass({config.kernel, config.row_warps, config.groups}, problem.n, problem.x_value_bytes);
    config.shared_bytes = shared_bytes(config, problem);
  }
  config.passes = static_cast<int>((problem.n + 8 * config.n_tiles - 1) / (8 * config.n_tiles));
  const std::int64_t per_super_row = config.kernel == SpmmKernel::mma ? config.row_warps : config.row_warps / 2;
  const std::int64_t super_rows = (row_blocks + per_super_row - 1) / per_super_row;
  const std::int64_t slots = device.num_sms * resident;
  const std::int64_t most = super_rows * std::max<std::int64_t>(1, records / config.groups);
  config.ctas = static_cast<int>(std::min(even_share(super_rows, slots), most));
  config.partial_floats = std::int64_t{config.passes} * config.ctas * 2 * per_super_row * 2 * config.n_tiles * 128;
  if (config.kernel == SpmmKernel::warp_specialized) config.partial_floats *= config.groups;  // each team leaves a part
  config.tickets = config.passes * super_rows * config.row_warps;
  if (config.kernel == SpmmKernel::mma) config.tickets *= ending_warps(config.groups, config.n_tiles);
  if (config.packs_x) config.packed_x_bytes = config.passes * records * config.n_tiles * 512 * problem.x_value_bytes;
  return config;
}

std::string SpmmConfig::to_string() const {
  static constexpr const char* kNames[] = {"mma", "wgmma", "warp-specialised"};
  return std::string(kNames[static_cast<int>(kernel)]) + ", n tiles " + std::to_string(n_tiles) + ", " + std::to_string(row_warps) + "x" +
         std::to_string(groups) + " warps" + (packs_x ? ", packed x, " : ", ") + std::to_string(ctas) + " ctas, " +
         (stages != 0 ? std::to_string(stages) + " stages, " : "") + std::to_string(passes) + " passes, " +
         std::to_string(shared_bytes / 1024) + " KiB shared";
}

}  // namespace gossamer
