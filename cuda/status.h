// CUDA's status codes as DeviceError.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

namespace gossamer::cuda {

// Throws DeviceError naming the call, unless the status is cudaSuccess.
[[noreturn]] void throw_status(cudaError_t status, std::string_view call);
inline void check_status(cudaError_t status, std::string_view call) {
  if (status != cudaSuccess) [[unlikely]]
    throw_status(status, call);
}

}  // namespace gossamer::cuda
