#include "launch/spmm_bytes_wgmma.cuh"

namespace gossamer {

cudaError_t launch_spmm_i8_i8_wgmma(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  return launch_bytes_wgmma<I8Product>(params, plan, is_bf16, stream);
}

}  // namespace gossamer
