// Which kernels this machine can run.
#pragma once

#include "cpu/cpu_ops.h"
#include "cpu/kernels.h"

namespace gossamer::cpu {

// Throws InvalidArgument where the machine, or the build, lacks the instruction set.
const Kernels& kernels_for(CpuIsa isa);

}  // namespace gossamer::cpu
