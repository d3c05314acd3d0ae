#include "kernels/sample.cuh"
#include "launch/sample.h"

namespace gossamer::cuda {

cudaError_t launch_sample(const SampleParams& params, cudaStream_t stream) {
  sample_kernel<<<static_cast<unsigned>(params.num_rows), kSampleThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace gossamer::cuda
