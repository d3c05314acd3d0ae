#include "kernels/random.cuh"
#include "launch/dispatch.cuh"
#include "launch/random.h"

namespace gossamer::cuda {
namespace {

unsigned blocks_of_records(const RandomParams& p) {
  return static_cast<unsigned>((p.row_blocks * p.records + kRandomWarps - 1) / kRandomWarps);
}

}  // namespace

cudaError_t launch_random_dense(const RandomParams& params, DType dtype, cudaStream_t stream) {
  constexpr std::int64_t kThreads = 256;
  const std::int64_t items = params.rows * params.ld / 8;
  return visit_half(dtype, [&](auto tag) {
    random_dense_kernel<typename decltype(tag)::type>
        <<<static_cast<unsigned>((items + kThreads - 1) / kThreads), kThreads, 0, stream>>>(params);
    return cudaGetLastError();
  });
}

cudaError_t launch_random_count(const RandomParams& params, cudaStream_t stream) {
  random_count_kernel<<<blocks_of_records(params), kRandomWarps * 32, 0, stream>>>(params);
  return cudaGetLastError();
}

cudaError_t launch_random_records(const RandomParams& params, DType dtype, cudaStream_t stream) {
  return visit_half(dtype, [&](auto tag) {
    random_records_kernel<typename decltype(tag)::type><<<blocks_of_records(params), kRandomWarps * 32, 0, stream>>>(params);
    return cudaGetLastError();
  });
}

}  // namespace gossamer::cuda
