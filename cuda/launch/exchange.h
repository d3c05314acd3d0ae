// Launches the exchanges between GPUs; messages of at most max_exchange_units().
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "kernels/exchange_params.h"

namespace gossamer::cuda {

constexpr std::int64_t max_exchange_units() { return kExchangeMaxBlocks * kExchangeBlockCapacity; }

// block_units is chosen here. cudaErrorInvalidValue: not 2 to kMaxPeers ranks, or a dtype other than f16 and bf16.
cudaError_t launch_all_reduce(ExchangeParams params, int ranks, DType dtype, cudaStream_t stream);
cudaError_t launch_all_gather(ExchangeParams params, int ranks, cudaStream_t stream);

}  // namespace gossamer::cuda
