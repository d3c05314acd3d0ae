#include "launch/spmm_instances.cuh"

namespace gossamer {

cudaError_t launch_spmm_wgmma_tiled_csl_f16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  return launch_wgmma<TiledCslDecoder, false>(params, config, stream);
}

}  // namespace gossamer
