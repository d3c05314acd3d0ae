// Programmatic dependent launch: a kernel may start while the one before it on the stream ends, and so hides its own start (sm_90). Every
// kernel that is launched so calls ptx::wait_for_previous_grid() before it touches what others write, on every path.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <type_traits>

namespace gossamer::cuda {

// overlaps: by programmatic dependent launch.
template <class... Params>
cudaError_t launch_kernel(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, bool overlaps,
                          const std::type_identity_t<Params>&... params) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = grid;
  launch.blockDim = block;
  launch.dynamicSmemBytes = shared_bytes;
  launch.stream = stream;
  launch.attrs = &overlap;
  launch.numAttrs = overlaps ? 1 : 0;
  return cudaLaunchKernelEx(&launch, kernel, params...);
}

}  // namespace gossamer::cuda
