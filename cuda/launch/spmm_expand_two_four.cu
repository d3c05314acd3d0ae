#include "kernels/expand_two_four.cuh"
#include "launch/expand.h"

namespace gossamer {

cudaError_t launch_expand_two_four(const ExpandParams& params, int num_sms, cudaStream_t stream) {
  using Layout = ExpandTwoFourLayout;
  const int shared = Layout::total(static_cast<int>(params.slot_bytes));
  if (const cudaError_t error = cudaFuncSetAttribute(expand_two_four_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      error != cudaSuccess) {
    return error;
  }
  int resident = 0;
  if (const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, expand_two_four_kernel, Layout::kWarps * 32,
                                                                              static_cast<std::size_t>(shared));
      error != cudaSuccess) {
    return error;
  }
  expand_two_four_kernel<<<num_sms * resident, Layout::kWarps * 32, static_cast<std::size_t>(shared), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace gossamer
