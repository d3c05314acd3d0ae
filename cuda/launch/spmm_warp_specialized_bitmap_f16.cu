#include "launch/warp_specialized_instances.cuh"

namespace gossamer {

cudaError_t launch_spmm_warp_specialized_bitmap_f16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  return launch_warp_specialized<BitmapTile, false>(params, config, stream);
}

}  // namespace gossamer
