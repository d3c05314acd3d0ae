// A block's dynamic shared memory.
#pragma once

#include <cstdint>

namespace gossamer::cuda {

__device__ __forceinline__ std::uint8_t* dynamic_shared() {
  extern __shared__ __align__(128) std::uint8_t dynamic_shared_memory[];
  return dynamic_shared_memory;
}

}  // namespace gossamer::cuda
