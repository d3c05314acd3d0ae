// Launches the SpMM for 8-bit weights, and before it, where the plan says so, what packs x. The only way to it from host code.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/spmm_bytes_params.h"
#include "plan/byte_plan.h"

namespace gossamer {

// params: workspaces of the sizes in the plan; tickets zeroed once, left zero. is_bf16: x, the epilogue's operands and out; else f16. With
// arithmetic decoding the records' mask words must be interleaved (byte_product.h). Enqueues on the stream.
cudaError_t launch_spmm_bytes(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream);

}  // namespace gossamer
