// Stands in for cuda/device/shared.cuh.
#pragma once

#include "emulation.h"

namespace gossamer::cuda {

inline std::uint8_t* dynamic_shared() { return emulation::dynamic_memory.data(); }

}  // namespace gossamer::cuda
