// Launches the kernels that make random weights of 8-bit values.
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "kernels/random_params.h"

namespace gossamer::cuda {

cudaError_t launch_random_bytes_count(const RandomParams& params, cudaStream_t stream);
cudaError_t launch_random_bytes_records(const RandomParams& params, DType dtype, cudaStream_t stream);  // i8 or e4m3

}  // namespace gossamer::cuda
