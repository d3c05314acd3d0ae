// Launches a kernel of the SpMM as a SpmmConfig says.
#pragma once

#include "launch/dependent.cuh"
#include "plan/spmm_plan.h"

namespace gossamer {

// shared: what the kernel's layout comes to; a configuration that disagrees is refused.
template <class Params>
cudaError_t launch_with(void (*kernel)(Params), const Params& params, const SpmmConfig& config, int threads, int shared,
                        cudaStream_t stream) {
  if (shared != config.shared_bytes) return cudaErrorInvalidConfiguration;
  if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); error != cudaSuccess) {
    return error;
  }
  return cuda::launch_kernel(kernel, dim3(static_cast<unsigned>(config.ctas), static_cast<unsigned>(config.passes)),
                             dim3(static_cast<unsigned>(threads)), static_cast<std::size_t>(shared), stream, config.dependent_launch,
                             params);
}

}  // namespace gossamer
