// Launches the row-wise kernels. Rows have at least one element; zero rows are not launched. `act` is the activations' type.
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "kernels/rowwise_params.h"

namespace gossamer::cuda {

cudaError_t launch_embedding(const EmbeddingParams& params, DType act, DType table, cudaStream_t stream);
cudaError_t launch_norm(const NormParams& params, DType act, cudaStream_t stream);
cudaError_t launch_gated(const GatedParams& params, DType act, cudaStream_t stream);
cudaError_t launch_gather(const GatherParams& params, DType act, cudaStream_t stream);
cudaError_t launch_read(const void* memory, std::int64_t bytes, std::uint32_t* sink, int num_sms, cudaStream_t stream);
cudaError_t launch_take(const TakeParams& params, cudaStream_t stream);
cudaError_t launch_add(const AddParams& params, DType act, cudaStream_t stream);
cudaError_t launch_epilogue(const EpilogueParams& params, DType act, DType out, cudaStream_t stream);

}  // namespace gossamer::cuda
