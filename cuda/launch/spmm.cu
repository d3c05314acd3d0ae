#include "kernels/pack_x.cuh"
#include "launch/spmm.h"

namespace gossamer {

using SpmmLauncher = cudaError_t(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream);
SpmmLauncher launch_spmm_mma_bitmap_f16;
SpmmLauncher launch_spmm_mma_bitmap_bf16;
SpmmLauncher launch_spmm_mma_tiled_csl_f16;
SpmmLauncher launch_spmm_mma_tiled_csl_bf16;
SpmmLauncher launch_spmm_mma_two_four_f16;
SpmmLauncher launch_spmm_mma_two_four_bf16;
SpmmLauncher launch_spmm_wgmma_bitmap_f16;
SpmmLauncher launch_spmm_wgmma_bitmap_bf16;
SpmmLauncher launch_spmm_wgmma_tiled_csl_f16;
SpmmLauncher launch_spmm_wgmma_tiled_csl_bf16;
SpmmLauncher launch_spmm_warp_specialized_bitmap_f16;
SpmmLauncher launch_spmm_warp_specialized_bitmap_bf16;

namespace {

cudaError_t launch_pack_x(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(static_cast<unsigned>((config.packed_x_bytes / 16 + 255) / 256));
  launch.blockDim = dim3(256);
  launch.stream = stream;
  launch.attrs = &overlap;
  launch.numAttrs = config.dependent_launch ? 1 : 0;
  return cudaLaunchKernelEx(&launch, config.kernel != SpmmKernel::mma ? pack_x_kernel<true> : pack_x_kernel<false>, params, config.n_tiles,
                            config.passes);
}

}  // namespace

cudaError_t launch_spmm(const SpmmParams& params, const SpmmConfig& config, TileFormat format, bool is_bf16, cudaStream_t stream) {
  static constexpr SpmmLauncher* kMma[3][2] = {{launch_spmm_mma_bitmap_f16, launch_spmm_mma_bitmap_bf16},
                                               {launch_spmm_mma_tiled_csl_f16, launch_spmm_mma_tiled_csl_bf16},
                                               {launch_spmm_mma_two_four_f16, launch_spmm_mma_two_four_bf16}};
  static constexpr SpmmLauncher* kWgmma[3][2] = {{launch_spmm_wgmma_bitmap_f16, launch_spmm_wgmma_bitmap_bf16},
                                                 {launch_spmm_wgmma_tiled_csl_f16, launch_spmm_wgmma_tiled_csl_bf16},
                                                 {}};
  static constexpr SpmmLauncher* kWarpSpecialized[3][2] = {
      {launch_spmm_warp_specialized_bitmap_f16, launch_spmm_warp_specialized_bitmap_bf16}, {}, {}};
  const auto& launchers = config.kernel == SpmmKernel::warp_specialized ? kWarpSpecialized
                          : config.kernel == SpmmKernel::wgmma          ? kWgmma
                                                                        : kMma;
  SpmmLauncher* const launcher = launchers[static_cast<int>(format)][is_bf16];
  if (launcher == nullptr) return cudaErrorInvalidConfiguration;
  if (config.packs_x) {
    if (const cudaError_t error = launch_pack_x(params, config, stream); error != cudaSuccess) return error;
  }
  return launcher(params, config, stream);
}

}  // namespace gossamer
