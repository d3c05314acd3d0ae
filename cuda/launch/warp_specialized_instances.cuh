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
  return launch_with(spmm_warp_specialized_kernel<Tile, kIsBf16, kNTiles, kRowGroups, kGroups, Product>, params, config, Layout::kThreads,
                     Layout::total(static_cast<int>(config.slot_bytes), config.stages), stream);
}

template <class Tile, bool kIsBf16>
cudaError_t launch_warp_specialized(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  if (config.n_tiles != 8 || config.row_warps != 8 || config.groups != 2) return cudaErrorInvalidConfiguration;
  return launch_warp_specialized_instance<Tile, kIsBf16, 8, 2, 2>(params, config, stream);
}

}  // namespace gossamer
