// Launches sampling.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/sample_params.h"

namespace gossamer::cuda {

cudaError_t launch_sample(const SampleParams& params, cudaStream_t stream);

}  // namespace gossamer::cuda
