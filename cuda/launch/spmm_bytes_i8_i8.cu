#include "launch/spmm_bytes_instances.cuh"

namespace gossamer {

cudaError_t launch_spmm_i8_i8(const SpmmBytesParams& params, const BytePlan& plan, bool is_bf16, cudaStream_t stream) {
  return launch_bytes<ByteProduct::i8_i8>(params, plan, is_bf16, stream);
}

}  // namespace gossamer
