#include "kernels/pack_x.cuh"
#include "kernels/quantize_x.cuh"
#include "launch/dependent.cuh"
#include "launch/spmm_bytes.h"

namespace gossamer {

using SpmmBytesLauncher = cudaError_t(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream);
SpmmBytesLauncher launch_spmm_e4m3_f16;
SpmmBytesLauncher launch_spmm_i8_f16;
SpmmBytesLauncher launch_spmm_i8_i8;
SpmmBytesLauncher launch_spmm_i8_i8_wgmma;
SpmmBytesLauncher launch_spmm_e4m3_e4m3;

namespace {

template <XValues kValues, PackedX kLayout>
cudaError_t launch_quantization(const SpmmBytesParams& params, const SpmmConfig& config, bool is_bf16, cudaStream_t stream) {
  return cuda::launch_kernel(is_bf16 ? quantize_x_kernel<__nv_bfloat16, kValues, kLayout> : quantize_x_kernel<__half, kValues, kLayout>,
                             dim3(static_cast<unsigned>(config.passes * config.n_tiles * 8)), dim3(kQuantizeThreads), kQuantizeSharedBytes,
                             stream, config.dependent_launch, params, config.n_tiles);
}

cudaError_t launch_packing(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  const SpmmConfig& config = plan.config;
  if (!plan.scales_x) {
    return cuda::launch_kernel(pack_x_kernel<false>, dim3(static_cast<unsigned>((config.packed_x_bytes / 16 + 255) / 256)), dim3(256), 0,
                               stream, config.dependent_launch, params.base, config.n_tiles, config.passes);
  }
  if (params.token_scales == nullptr) return cudaErrorInvalidValue;
  const bool by_wgmma = config.kernel == SpmmKernel::warp_specialized;
  if (plan.product == ByteProduct::e4m3_e4m3) {
    return launch_quantization<XValues::e4m3, PackedX::byte_core_matrices>(params, config, is_bf16, stream);
  }
  if (plan.product == ByteProduct::i8_i8) {
    return by_wgmma ? launch_quantization<XValues::i8, PackedX::byte_core_matrices>(params, config, is_bf16, stream)
                    : launch_quantization<XValues::i8, PackedX::bytes>(params, config, is_bf16, stream);
  }
  return launch_quantization<XValues::f16, PackedX::fragments>(params, config, is_bf16, stream);
}

}  // namespace

cudaError_t launch_spmm_bytes(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  if (params.row_scales == nullptr || (is_bf16 && !plan.scales_x)) return cudaErrorInvalidValue;
  if (plan.config.packs_x && !plan.x_is_packed) {
    if (const cudaError_t error = launch_packing(params, plan, is_bf16, stream); error != cudaSuccess) return error;
  }
  SpmmBytesParams rest = params;
  if (!plan.scales_x) rest.token_scales = nullptr;
  switch (plan.product) {
    case ByteProduct::e4m3_f16: return launch_spmm_e4m3_f16(rest, plan, is_bf16, stream);
    case ByteProduct::i8_f16: return launch_spmm_i8_f16(rest, plan, is_bf16, stream);
    case ByteProduct::i8_i8:
      return plan.config.kernel == SpmmKernel::warp_specialized ? launch_spmm_i8_i8_wgmma(rest, plan, is_bf16, stream)
                                                                : launch_spmm_i8_i8(rest, plan, is_bf16, stream);
    case ByteProduct::e4m3_e4m3: return launch_spmm_e4m3_e4m3(rest, plan, is_bf16, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gossamer
