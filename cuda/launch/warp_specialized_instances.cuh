// Dispatch from a SpmmConfig to an instance of the warp-specialised kernel, for one format and one value type.
#pragma once

#include "kernels/spmm_warp_specialized.cuh"
#include "launch/launch_with.cuh"

namespace gossamer {

template <class Tile, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups, class Product = HalfProduct<kIsBf16>>
cudaError_t launch_warp_specialized_instance(typename Product::Params params, const SpmmConfig& config, cudaStream_t stream) {
  using Layout = WarpSpecializedLayout<Tile, kNTiles, kRowGroups, kGroups, Product::kPackedX>;
  if (config.stages < Layout::kMinStages || config.stages > Layout::kMaxStages) return cudaErrorInvalidConfiguration;
  base_of(params).stages = config.stages;
  if (config.finishes_apart) base_of(params).tickets = nullptr;
  const cudaError_t error = launch_with(spmm_warp_specialized_kernel<Tile, kIsBf16, kNTiles, kRowGroups, kGroups, Product>, params, config,
                                        Layout::kThreads, Layout::total(static_cast<int>(config.slot_bytes), config.stages), stream);
  if (error != cudaSuccess || !config.finishes_apart) return error;
  const int super_rows = (base_of(params).row_blocks + Layout::kRowBlocks - 1) / Layout::kRowBlocks;
  return cuda::launch_kernel(finish_sums_kernel<kIsBf16, kNTiles, 4 * kRowGroups, kGroups, typename Product::Params>,
                             dim3(static_cast<unsigned>(kFinishBlocks * super_rows), static_cast<unsigned>(config.passes)),
                             dim3(kFinishWarps * 32), 0, stream, config.dependent_launch, params, config.ctas);
}

template <class Tile, bool kIsBf16>
cudaError_t launch_warp_specialized(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  switch (config.n_tiles * 10000 + config.row_warps * 100 + config.groups) {
    case 40802: return launch_warp_specialized_instance<Tile, kIsBf16, 4, 2, 2>(params, config, stream);
    case 41601: return launch_warp_specialized_instance<Tile, kIsBf16, 4, 4, 1>(params, config, stream);
    case 42401: return launch_warp_specialized_instance<Tile, kIsBf16, 4, 6, 1>(params, config, stream);
    case 80802: return launch_warp_specialized_instance<Tile, kIsBf16, 8, 2, 2>(params, config, stream);
    case 81201: return launch_warp_specialized_instance<Tile, kIsBf16, 8, 3, 1>(params, config, stream);
    case 81601: return launch_warp_specialized_instance<Tile, kIsBf16, 8, 4, 1>(params, config, stream);
    case 160802: return launch_warp_specialized_instance<Tile, kIsBf16, 16, 2, 2>(params, config, stream);
    case 161201: return launch_warp_specialized_instance<Tile, kIsBf16, 16, 3, 1>(params, config, stream);
    case 161601: return launch_warp_specialized_instance<Tile, kIsBf16, 16, 4, 1>(params, config, stream);
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace gossamer
