#include "launch/spmm_instances.cuh"

namespace gossamer {

cudaError_t launch_spmm_mma_two_four_bf16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  return launch_mma<TwoFourDecoder, true>(params, config, stream);
}

}  // namespace gossamer
