#include "launch/spmm_instances.cuh"

namespace gossamer {

cudaError_t launch_spmm_mma_two_four_f16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  return launch_mma<TwoFourDecoder, false>(params, config, stream);
}

}  // namespace gossamer
