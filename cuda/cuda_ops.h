// The verbs of Ops on one NVIDIA GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "ops/plugin.h"

namespace gossamer {
struct DeviceLimits;  // plan/spmm_plan.h
}

namespace gossamer::cuda {

// Throws DeviceError where there is no such device or this build has no code for it, InvalidArgument for a dtype other than f16 and bf16
// or a cost table that cannot be read.
std::unique_ptr<Ops> make_cuda_ops(int device_index, DType activation_dtype, const BackendOptions& options);
DeviceLimits limits_of(int device_index);
// The stream of Ops made above, with its device made this thread's own.
cudaStream_t bound_stream(Ops& ops);

}  // namespace gossamer::cuda
