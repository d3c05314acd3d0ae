#include "kernels/random_bytes.cuh"
#include "launch/random_bytes.h"

namespace gossamer::cuda {
namespace {

unsigned blocks_of_records(const RandomParams& p) {
  return static_cast<unsigned>((p.row_blocks * p.records + kRandomWarps - 1) / kRandomWarps);
}

}  // namespace

cudaError_t launch_random_bytes_count(const RandomParams& params, cudaStream_t stream) {
  random_bytes_count_kernel<<<blocks_of_records(params), kRandomWarps * 32, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launch_random_bytes_records(const RandomParams& params, DType dtype, cudaStream_t stream) {
  if (dtype == DType::e4m3) {
    random_bytes_records_kernel<true><<<blocks_of_records(params), kRandomWarps * 32, 0, stream>>>(params);
  } else {
    random_bytes_records_kernel<false><<<blocks_of_records(params), kRandomWarps * 32, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace gossamer::cuda
