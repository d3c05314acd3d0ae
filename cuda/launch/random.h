// Launches the kernels that make random weights.
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "kernels/random_params.h"

namespace gossamer::cuda {

cudaError_t launch_random_dense(const RandomParams& params, DType dtype, cudaStream_t stream);
cudaError_t launch_random_count(const RandomParams& params, cudaStream_t stream);
cudaError_t launch_random_records(const RandomParams& params, DType dtype, cudaStream_t stream);

}  // namespace gossamer::cuda
