// Planning of the SpMM for 8-bit weights (kernels/byte_product.h): as spmm_plan.h, host-only. Not measured yet.
#pragma once

#include "kernels/byte_product.h"
#include "plan/spmm_plan.h"

namespace gossamer {

// A configuration of spmm_bytes.cuh, or of spmm_warp_specialized.cuh.
struct BytePlan {
  SpmmConfig config;
  ByteProduct product = ByteProduct::e4m3_f16;
  ByteDecoding decoding = ByteDecoding::table;
  bool scales_x = false;                // quantize_x.cuh packs x and gives each token a scale; else pack_x.cuh, if config.packs_x
  bool x_is_packed = false;             // a launch of the same plan has packed this x
  std::int64_t token_scale_floats = 0;  // workspace
};

// problem.max_record_bytes: of records with 8-bit values; its format is not looked at. problem.shape: mma, or for bytes by bytes
// warp_specialized, which e4m3_e4m3 always is.
BytePlan plan_spmm_bytes(const SpmmProblem& problem, ByteProduct product, bool x_is_bf16, const DeviceLimits& device,
                         ByteDecoding decoding = ByteDecoding::table);

}  // namespace gossamer
