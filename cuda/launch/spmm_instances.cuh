// Dispatch from a SpmmConfig to the kernel instance it names, for one decoder and one value type. Each launch/spmm_*.cu instantiates one
// kernel and pair, so that they compile in parallel.
#pragma once

#include <type_traits>

#include "kernels/spmm_decode.cuh"
#include "kernels/spmm_wgmma.cuh"
#include "launch/launch_with.cuh"
#include "launch/spmm.h"

namespace gossamer {

template <class Decoder, bool kIsBf16, int kNTiles, bool kPackedX>
cudaError_t launch_mma_shape(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  const auto launch = [&](auto row_warps, auto groups) {
    constexpr int kRowWarps = decltype(row_warps)::value, kGroups = decltype(groups)::value;
    using Layout = SpmmSharedLayout<Decoder, kNTiles, kRowWarps, kGroups>;
    return launch_with(spmm_decode_kernel<Decoder, kIsBf16, kNTiles, kRowWarps, kGroups, kPackedX>, params, config, Layout::kWarps * 32,
                       Layout::total(static_cast<int>(config.slot_bytes)), stream);
  };
  using std::integral_constant;
  const int warps = config.row_warps * 100 + config.groups;
  if constexpr (kPackedX || kNTiles == 1) {
    if (warps == 404) return launch(integral_constant<int, 4>{}, integral_constant<int, 4>{});
    if (warps == 402) return launch(integral_constant<int, 4>{}, integral_constant<int, 2>{});
  }
  if constexpr (!kPackedX) {
    if constexpr (kNTiles <= 2) {
      if (warps == 132) return launch(integral_constant<int, 1>{}, integral_constant<int, 32>{});
    }
    if (warps == 116) return launch(integral_constant<int, 1>{}, integral_constant<int, 16>{});
    if (warps == 108) return launch(integral_constant<int, 1>{}, integral_constant<int, 8>{});
  }
  return cudaErrorInvalidConfiguration;
}

template <class Decoder, bool kIsBf16>
cudaError_t launch_mma(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  if (!config.packs_x && !params.x_is_aligned) return cudaErrorInvalidConfiguration;
  const auto dispatch = [&](auto tiles) {
    constexpr int kTiles = decltype(tiles)::value;
    return config.packs_x ? launch_mma_shape<Decoder, kIsBf16, kTiles, true>(params, config, stream)
                          : launch_mma_shape<Decoder, kIsBf16, kTiles, false>(params, config, stream);
  };
  switch (config.n_tiles) {
    case 1: return dispatch(std::integral_constant<int, 1>{});
    case 2: return dispatch(std::integral_constant<int, 2>{});
    case 4: return dispatch(std::integral_constant<int, 4>{});
  }
  return cudaErrorInvalidConfiguration;
}

template <class Decoder, bool kIsBf16, int kNTiles, int kRowGroups, int kGroups>
cudaError_t launch_wgmma_instance(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  using Layout = SpmmWgmmaLayout<Decoder, kNTiles, kRowGroups, kGroups>;
  return launch_with(spmm_wgmma_kernel<Decoder, kIsBf16, kNTiles, kRowGroups, kGroups>, params, config, Layout::kWarps * 32,
                     Layout::total(static_cast<int>(config.slot_bytes)), stream);
}

template <class Decoder, bool kIsBf16>
cudaError_t launch_wgmma(const SpmmParams& params, const SpmmConfig& config, cudaStream_t stream) {
  switch (config.n_tiles * 10000 + config.row_warps * 100 + config.groups) {
    case 80802: return launch_wgmma_instance<Decoder, kIsBf16, 8, 2, 2>(params, config, stream);
    case 81601: return launch_wgmma_instance<Decoder, kIsBf16, 8, 4, 1>(params, config, stream);
    case 160802: return launch_wgmma_instance<Decoder, kIsBf16, 16, 2, 2>(params, config, stream);
    case 161601: return launch_wgmma_instance<Decoder, kIsBf16, 16, 4, 1>(params, config, stream);
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace gossamer
