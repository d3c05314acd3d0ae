// The verbs of Ops on one NVIDIA GPU.
#pragma once

#include <memory>

#include "ops/ops.h"

namespace gossamer::cuda {

// Throws DeviceError where there is no such device or this build has no code for it, InvalidArgument for a dtype other than f16 and bf16.
std::unique_ptr<Ops> make_cuda_ops(int device_index, DType activation_dtype);

}  // namespace gossamer::cuda
