// Dispatch from a SpmmConfig to the kernel instance it names, for one decoder and one value type. Each launch/spmm_*.cu instantiates one
// pair, so that the pairs compile in parallel.
#pragma once

#include <type_traits>

#include "kernels/spmm_decode.cuh"
#include "launch/spmm.h"

namespace gossamer {

template <class Decoder, bool kIsBf16, int kNTiles, int kRowWarps, int kGroups, bool kAligned>
cudaError_t launch_instance(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  using Layout = SpmmSharedLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  const int shared = Layout::total(static_cast<int>(config.slot_bytes));
  if (shared != config.shared_bytes) return cudaErrorInvalidConfiguration;
  const auto kernel = spmm_decode_kernel<Decoder, kIsBf16, kNTiles, kRowWarps, kGroups, kAligned>;
  if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); error != cudaSuccess) {
    return error;
  }
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(static_cast<unsigned>(config.ctas), static_cast<unsigned>(config.passes));
  launch.blockDim = dim3(kRowWarps * kGroups * 32);
  launch.dynamicSmemBytes = static_cast<std::size_t>(shared);
  launch.stream = stream;
  launch.attrs = &overlap;
  launch.numAttrs = config.dependent_launch ? 1 : 0;
  return cudaLaunchKernelEx(&launch, kernel, params);
}

template <class Decoder, bool kIsBf16, int kNTiles, bool kAligned>
cudaError_t launch_warps(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  if constexpr (!kAligned) {  // rare: one shape is enough
    if (config.row_warps != 1 || config.groups != 8) return cudaErrorInvalidConfiguration;
    return launch_instance<Decoder, kIsBf16, kNTiles, 1, 8, kAligned>(params, config, stream);
  }
  switch (config.row_warps * 100 + config.groups) {
    case 404: return launch_instance<Decoder, kIsBf16, kNTiles, 4, 4, kAligned>(params, config, stream);
    case 208: return launch_instance<Decoder, kIsBf16, kNTiles, 2, 8, kAligned>(params, config, stream);
    case 116: return launch_instance<Decoder, kIsBf16, kNTiles, 1, 16, kAligned>(params, config, stream);
    case 402: return launch_instance<Decoder, kIsBf16, kNTiles, 4, 2, kAligned>(params, config, stream);
    case 108: return launch_instance<Decoder, kIsBf16, kNTiles, 1, 8, kAligned>(params, config, stream);
  }
  return cudaErrorInvalidConfiguration;
}

template <class Decoder, bool kIsBf16>
cudaError_t launch_any(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  const auto dispatch = [&](auto tiles) {
    constexpr int kTiles = decltype(tiles)::value;
    return params.x_is_aligned ? launch_warps<Decoder, kIsBf16, kTiles, true>(params, config, stream)
                               : launch_warps<Decoder, kIsBf16, kTiles, false>(params, config, stream);
  };
  switch (config.n_tiles) {
    case 1: return dispatch(std::integral_constant<int, 1>{});
    case 2: return dispatch(std::integral_constant<int, 2>{});
    case 4: return dispatch(std::integral_constant<int, 4>{});
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace gossamer
