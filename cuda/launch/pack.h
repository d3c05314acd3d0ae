// Launches the packing of bitmap tiles.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/pack_params.h"

namespace gossamer::cuda {

cudaError_t launch_pack(const PackParams& params, cudaStream_t stream);

}  // namespace gossamer::cuda
