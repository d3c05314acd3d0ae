// Launches the expansion of a tiled weight into a dense one.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/expand_params.h"
#include "sparse/tiled_weight.h"

namespace gossamer {

// 16-bit values of any kind. Enqueues on the stream.
cudaError_t launch_expand(const ExpandParams& params, TileFormat format, int num_sms, cudaStream_t stream);
cudaError_t launch_expand_two_four(const ExpandParams& params, int num_sms, cudaStream_t stream);  // what it calls for that format

}  // namespace gossamer
