// The CUDA backend for tests: made through the plugin, as the core does it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "core/error.h"
#include "ops/plugin.h"

namespace gossamer::testing {

// Why no GPU can be used here; empty if one can.
inline std::string why_no_gpu() {
  try {
    return load_backend("cuda").probe().devices.empty() ? "no NVIDIA GPU here" : "";
  } catch (const DeviceError& error) {
    return error.what();
  }
}

inline std::unique_ptr<Ops> make_gpu_ops(DType act) { return load_backend("cuda").create_ops(0, act); }

}  // namespace gossamer::testing
