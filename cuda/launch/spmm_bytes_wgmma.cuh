// Dispatch from a BytePlan to an instance of the warp-specialised kernel, for one product of bytes by bytes.
#pragma once

#include "kernels/spmm_byte_decoders.cuh"
#include "launch/spmm_bytes.h"
#include "launch/warp_specialized_instances.cuh"

namespace gossamer {

template <class Product, ByteDecoding kDecoding, bool kIsBf16>
cudaError_t launch_byte_tiles_wgmma(const SpmmBytesParams& params, const SpmmConfig& config, cudaStream_t stream) {
  using Tile = ByteTile<SelectorsOf<kDecoding>>;
  switch (config.n_tiles * 10000 + config.row_warps * 100 + config.groups) {
    case 80802: return launch_warp_specialized_instance<Tile, kIsBf16, 8, 2, 2, Product>(params, config, stream);
    case 81201: return launch_warp_specialized_instance<Tile, kIsBf16, 8, 3, 1, Product>(params, config, stream);
    case 81601: return launch_warp_specialized_instance<Tile, kIsBf16, 8, 4, 1, Product>(params, config, stream);
    case 160801: return launch_warp_specialized_instance<Tile, kIsBf16, 16, 2, 1, Product>(params, config, stream);
  }
  return cudaErrorInvalidConfiguration;
}

// Arithmetic decoding is there to be measured against the table: f16 alone.
template <class Product>
cudaError_t launch_bytes_wgmma(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  if (plan.decoding == ByteDecoding::table) {
    return is_bf16 ? launch_byte_tiles_wgmma<Product, ByteDecoding::table, true>(params, plan.config, stream)
                   : launch_byte_tiles_wgmma<Product, ByteDecoding::table, false>(params, plan.config, stream);
  }
  return is_bf16 ? cudaErrorInvalidConfiguration
                 : launch_byte_tiles_wgmma<Product, ByteDecoding::arithmetic, false>(params, plan.config, stream);
}

}  // namespace gossamer
