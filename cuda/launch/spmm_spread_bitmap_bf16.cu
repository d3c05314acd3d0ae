#include "launch/spmm_instances.cuh"

namespace gossamer {

cudaError_t launch_spmm_spread_bitmap_bf16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  return launch_mma<BitmapDecoder, true, true>(params, config, stream);
}

}  // namespace gossamer
