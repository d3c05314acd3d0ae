// Plain parameter struct of the SpMM for 8-bit weights; shared by host and device code.
#pragma once

#include "kernels/host_device.h"
#include "kernels/spmm_params.h"

namespace gossamer {

// Sums are multiplied by the scales of their row and token before the epilogue.
struct SpmmBytesParams {
  SpmmParams base;                    // x: f16 or bf16; packed_x: as the product reads it
  const float* row_scales = nullptr;  // [m]
  float* token_scales = nullptr;      // workspace, [n] up to whole passes, written when x is scaled and packed; null: x is as it was
};

// The part that all SpMM kernels share.
GOSSAMER_HOST_DEVICE constexpr const SpmmParams& base_of(const SpmmParams& params) { return params; }
GOSSAMER_HOST_DEVICE constexpr const SpmmParams& base_of(const SpmmBytesParams& params) { return params.base; }
GOSSAMER_HOST_DEVICE constexpr SpmmParams& base_of(SpmmParams& params) { return params; }
GOSSAMER_HOST_DEVICE constexpr SpmmParams& base_of(SpmmBytesParams& params) { return params.base; }

}  // namespace gossamer
