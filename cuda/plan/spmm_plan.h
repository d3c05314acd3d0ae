// Planning of the decode SpMM: problem -> configuration, as data. Host-only, no CUDA header: tested without a GPU.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sparse/tiled_weight.h"

namespace gossamer {

// mma: spmm_decode.cuh, any GPU from sm_80. wgmma: spmm_wgmma.cuh, sm_90a. warp_specialized: spmm_warp_specialized.cuh, sm_90a; only where
// a shape asks for it.
enum class SpmmKernel { mma, wgmma, warp_specialized };

// Which kernel, and how the warps of a CTA are arranged.
struct SpmmShape {
  SpmmKernel kernel = SpmmKernel::mma;
  int row_warps = 4;     // over rows, 32 rows each (16 for wgmma and warp_specialized); they share activations
  int groups = 4;        // along k
  bool packs_x = false;  // a kernel before puts x in the order of reading; wgmma always does (both), x that is not aligned needs it
};

struct SpmmProblem {
  TileFormat format = TileFormat::bitmap;
  std::int64_t m = 0, k = 0, n = 0;
  std::int64_t max_record_bytes = 0;
  bool x_is_aligned = true;        // 16-byte aligned rows and k % 8 == 0
  std::optional<SpmmShape> shape;  // instead of the planner's choice: for tuning
  bool batch_invariant = false;    // a sum's order does not depend on n or on x: slower, without wgmma
  int x_value_bytes = 2;           // of x as warp_specialized reads it: 1 where weights and activations have 8 bits
  std::optional<std::int64_t> scratch_bytes = std::nullopt;  // of shared memory a warp, where the decoder's is not the format's
};

struct DeviceLimits {
  int num_sms = 132;
  std::int64_t shared_bytes_per_block = 232448;  // opt-in maximum
  std::int64_t shared_bytes_per_sm = 233472;     // each resident block also takes 1 KiB
  bool dependent_launch = true;                  // sm_90 and later
  bool wgmma = true;                             // sm_90a
};

struct SpmmConfig {
  SpmmKernel kernel = SpmmKernel::mma;
  int n_tiles = 1;  // of 8 tokens each, per pass
  int row_warps = 4;
  int groups = 4;
  int ctas = 132;
  int stages = 0;  // of the warp-specialised kernel: steps along k in flight
  int passes = 1;  // over n; each reads the weight once
  bool packs_x = false;
  bool dependent_launch = false;
  std::int64_t slot_bytes = 0;
  std::int64_t shared_bytes = 0;
  std::int64_t partial_floats = 0;  // workspace
  std::int64_t tickets = 0;         // u32, zeroed once
  std::int64_t packed_x_bytes = 0;

  std::string to_string() const;
};

// The configuration with the most warps that fits; fewer warps and stages for matrices with dense spots.
SpmmConfig plan_spmm(const SpmmProblem& problem, const DeviceLimits& device);

}  // namespace gossamer
