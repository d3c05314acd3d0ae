#include "kernels/pack_x.cuh"
#include "kernels/quantize_x.cuh"
#include "launch/spmm_bytes.h"

namespace gossamer {

using SpmmBytesLauncher = cudaError_t(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream);
SpmmBytesLauncher launch_spmm_e4m3_f16;
SpmmBytesLauncher launch_spmm_i8_f16;
SpmmBytesLauncher launch_spmm_i8_i8;

namespace {

cudaError_t launch_packing(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  const SpmmConfig& config = plan.config;
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch = {};
  launch.stream = stream;
  launch.attrs = &overlap;
  launch.numAttrs = config.dependent_launch ? 1 : 0;
  if (!plan.scales_x) {
    launch.gridDim = dim3(static_cast<unsigned>((config.packed_x_bytes / 16 + 255) / 256));
    launch.blockDim = dim3(256);
    return cudaLaunchKernelEx(&launch, pack_x_kernel<false>, params.base, config.n_tiles, config.passes);
  }
  if (params.token_scales == nullptr) return cudaErrorInvalidValue;
  launch.gridDim = dim3(static_cast<unsigned>(config.passes * config.n_tiles * 8));
  launch.blockDim = dim3(kQuantizeThreads);
  launch.dynamicSmemBytes = kQuantizeSharedBytes;
  if (plan.product == ByteProduct::i8_i8) {
    return cudaLaunchKernelEx(&launch,
                              is_bf16 ? quantize_x_kernel<__nv_bfloat16, PackedX::bytes> : quantize_x_kernel<__half, PackedX::bytes>,
                              params, config.n_tiles);
  }
  return cudaLaunchKernelEx(&launch,
                            is_bf16 ? quantize_x_kernel<__nv_bfloat16, PackedX::fragments> : quantize_x_kernel<__half, PackedX::fragments>,
                            params, config.n_tiles);
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
    case ByteProduct::i8_i8: return launch_spmm_i8_i8(rest, plan, is_bf16, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gossamer
