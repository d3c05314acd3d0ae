#include "kernels/pack.cuh"
#include "launch/pack.h"

namespace gossamer::cuda {

cudaError_t launch_pack(const PackParams& params, cudaStream_t stream) {
  const auto blocks = [](std::int64_t warps) { return static_cast<unsigned>((warps + kPackWarps - 1) / kPackWarps); };
  pack_count_kernel<<<blocks(params.row_blocks), kPackWarps * 32, 0, stream>>>(params);
  pack_records_kernel<<<blocks(params.row_blocks * params.records), kPackWarps * 32, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace gossamer::cuda
