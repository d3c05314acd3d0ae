#include "launch/spmm_bytes_wgmma.cuh"

namespace gossamer {

cudaError_t launch_spmm_e4m3_e4m3(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  return launch_bytes_wgmma<E4m3Product>(params, plan, is_bf16, stream);
}

}  // namespace gossamer
