#include "status.h"

#include <string>

#include "core/error.h"

namespace gossamer::cuda {

void throw_status(cudaError_t status, std::string_view call) {
  cudaGetLastError();  // forgets it, unless the context is lost
  throw DeviceError(std::string(call) + ": " + cudaGetErrorName(status) + " (" + std::to_string(static_cast<int>(status)) + "), " +
                    cudaGetErrorString(status) + "; make a new Runtime, and report it if it comes back");
}

}  // namespace gossamer::cuda
