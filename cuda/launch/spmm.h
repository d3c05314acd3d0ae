// Launches the decode SpMM. The only way to it from host code.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/spmm_params.h"
#include "plan/spmm_plan.h"

namespace gossamer {

// params.partials and tickets: workspace of the sizes in config; tickets zeroed once, left zero. Enqueues on the stream.
cudaError_t launch_spmm(const SpmmParams& params, const SpmmConfig& config, TileFormat format, bool is_bf16, cudaStream_t stream);

}  // namespace gossamer
