// Dispatch from a BytePlan to the kernel instance it names, for one product; one .cu each, so that they compile in parallel.
#pragma once

#include <type_traits>

#include "kernels/spmm_bytes.cuh"
#include "launch/launch_with.cuh"
#include "launch/spmm_bytes.h"

namespace gossamer {

template <ByteProduct kProduct, bool kPackedX, int kNTiles>
using ByteProductOf = std::conditional_t<kProduct == ByteProduct::i8_i8, IntegerProduct<true, kNTiles>, WidenedProduct<kPackedX, kNTiles>>;

template <ByteProduct kProduct, ByteDecoding kDecoding, bool kIsBf16, int kNTiles, bool kPackedX, int kRowWarps, int kGroups>
cudaError_t launch_bytes_instance(const SpmmBytesParams& params, const SpmmConfig& config, cudaStream_t stream) {
  using Decoder = typename ByteDecoderOf<kProduct, kDecoding>::type;
  using Layout = SpmmBytesLayout<Decoder, kNTiles, kRowWarps, kGroups>;
  return launch_with(spmm_bytes_kernel<Decoder, ByteProductOf<kProduct, kPackedX, kNTiles>, kIsBf16, kNTiles, kRowWarps, kGroups>, params,
                     config, Layout::kWarps * 32, Layout::total(static_cast<int>(config.slot_bytes)), stream);
}

template <ByteProduct kProduct, ByteDecoding kDecoding, bool kIsBf16, int kNTiles, bool kPackedX>
cudaError_t launch_bytes_shape(const SpmmBytesParams& params, const SpmmConfig& config, cudaStream_t stream) {
  const int warps = config.row_warps * 100 + config.groups;
  if constexpr (kPackedX || kNTiles == 1) {  // row warps that read x directly are slower from two n tiles on
    if (warps == 404) return launch_bytes_instance<kProduct, kDecoding, kIsBf16, kNTiles, kPackedX, 4, 4>(params, config, stream);
  }
  if constexpr (kNTiles <= 2) {
    if (warps == 132) return launch_bytes_instance<kProduct, kDecoding, kIsBf16, kNTiles, kPackedX, 1, 32>(params, config, stream);
  }
  return cudaErrorInvalidConfiguration;
}

template <ByteProduct kProduct, ByteDecoding kDecoding, bool kIsBf16>
cudaError_t launch_bytes_tiles(const SpmmBytesParams& params, const SpmmConfig& config, cudaStream_t stream) {
  const auto dispatch = [&](auto tiles) {
    constexpr int kTiles = decltype(tiles)::value;
    if (config.packs_x) return launch_bytes_shape<kProduct, kDecoding, kIsBf16, kTiles, true>(params, config, stream);
    if constexpr (kProduct != ByteProduct::i8_i8 && !kIsBf16) {
      if (params.base.x_is_aligned) return launch_bytes_shape<kProduct, kDecoding, kIsBf16, kTiles, false>(params, config, stream);
    }
    return cudaErrorInvalidConfiguration;
  };
  switch (config.n_tiles) {
    case 1: return dispatch(std::integral_constant<int, 1>{});
    case 2: return dispatch(std::integral_constant<int, 2>{});
    case 4:
      if constexpr (kDecoding == ByteDecoding::table) return dispatch(std::integral_constant<int, 4>{});
  }
  return cudaErrorInvalidConfiguration;
}

// Arithmetic decoding is there to be measured against the table: f16 alone.
template <ByteProduct kProduct>
cudaError_t launch_bytes(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  if (plan.decoding == ByteDecoding::table) {
    return is_bf16 ? launch_bytes_tiles<kProduct, ByteDecoding::table, true>(params, plan.config, stream)
                   : launch_bytes_tiles<kProduct, ByteDecoding::table, false>(params, plan.config, stream);
  }
  if constexpr (kProduct != ByteProduct::i8_f16) {
    if (!is_bf16) return launch_bytes_tiles<kProduct, ByteDecoding::arithmetic, false>(params, plan.config, stream);
  }
  return cudaErrorInvalidConfiguration;
}

}  // namespace gossamer
