// Launches the expansion of a weight of 8-bit tiles. The only way to it from host code.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/expand_bytes_params.h"

namespace gossamer {

// is_e4m3: the values, else i8. is_bf16: out, else f16. Enqueues on the stream.
cudaError_t launch_expand_bytes(const ExpandBytesParams& params, bool is_e4m3, bool is_bf16, int num_sms, cudaStream_t stream);

}  // namespace gossamer
