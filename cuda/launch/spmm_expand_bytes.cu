#include "kernels/expand_bytes.cuh"
#include "launch/expand_bytes.h"

namespace gossamer {
namespace {

template <ByteProduct kProduct, class Half>
cudaError_t launch(const ExpandBytesParams& params, int num_sms, cudaStream_t stream) {
  using Decoder = typename ByteDecoderOf<kProduct, ByteDecoding::table>::type;
  using Layout = ExpandBytesLayout<Decoder>;
  const auto kernel = expand_bytes_kernel<Decoder, Half>;
  const int shared = Layout::total(static_cast<int>(params.base.slot_bytes));
  if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared); error != cudaSuccess) {
    return error;
  }
  int resident = 0;
  if (const cudaError_t error =
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, Layout::kWarps * 32, static_cast<std::size_t>(shared));
      error != cudaSuccess) {
    return error;
  }
  kernel<<<num_sms * resident, Layout::kWarps * 32, static_cast<std::size_t>(shared), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_expand_bytes(const ExpandBytesParams& params, bool is_e4m3, bool is_bf16, int num_sms, cudaStream_t stream) {
  if (is_e4m3) {
    return is_bf16 ? launch<ByteProduct::e4m3_f16, __nv_bfloat16>(params, num_sms, stream)
                   : launch<ByteProduct::e4m3_f16, __half>(params, num_sms, stream);
  }
  return is_bf16 ? launch<ByteProduct::i8_f16, __nv_bfloat16>(params, num_sms, stream)
                 : launch<ByteProduct::i8_f16, __half>(params, num_sms, stream);
}

}  // namespace gossamer
