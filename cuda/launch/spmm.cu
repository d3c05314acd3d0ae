#include "launch/spmm.h"

namespace gossamer {

cudaError_t launch_spmm_bitmap_f16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream);
cudaError_t launch_spmm_bitmap_bf16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream);
cudaError_t launch_spmm_tiled_csl_f16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream);
cudaError_t launch_spmm_tiled_csl_bf16(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream);

cudaError_t launch_spmm(const SpmmParams& params, const SpmmConfig& config, TileFormat format, bool is_bf16, cudaStream_t stream) {
  if (format == TileFormat::bitmap) {
    return is_bf16 ? launch_spmm_bitmap_bf16(params, config, stream) : launch_spmm_bitmap_f16(params, config, stream);
  }
  return is_bf16 ? launch_spmm_tiled_csl_bf16(params, config, stream) : launch_spmm_tiled_csl_f16(params, config, stream);
}

}  // namespace gossamer
