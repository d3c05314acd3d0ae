// Launches the dense product without a library.
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "kernels/dense_params.h"

namespace gossamer::cuda {

cudaError_t launch_dense(const DenseParams& params, DType act, DType out, cudaStream_t stream);

}  // namespace gossamer::cuda
