#include "kernels/expand.cuh"
#include "launch/expand.h"

namespace gossamer {
namespace {

template <class Decoder>
cudaError_t launch(const ExpandParams& params, int num_sms, cudaStream_t stream) {
  using Layout = ExpandLayout<Decoder>;
  const int shared = Layout::total(static_cast<int>(params.slot_bytes));
  if (const cudaError_t error = cudaFuncSetAttribute(expand_kernel<Decoder>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      error != cudaSuccess) {
    return error;
  }
  int resident = 0;
  if (const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, expand_kernel<Decoder>, Layout::kWarps * 32,
                                                                              static_cast<std::size_t>(shared));
      error != cudaSuccess) {
    return error;
  }
  expand_kernel<Decoder><<<num_sms * resident, Layout::kWarps * 32, static_cast<std::size_t>(shared), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_expand(const ExpandParams& params, TileFormat format, int num_sms, cudaStream_t stream) {
  if (format == TileFormat::two_four) return launch_expand_two_four(params, num_sms, stream);
  return format == TileFormat::bitmap ? launch<BitmapDecoder>(params, num_sms, stream) : launch<TiledCslDecoder>(params, num_sms, stream);
}

}  // namespace gossamer
