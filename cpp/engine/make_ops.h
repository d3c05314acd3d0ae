// The one place that turns a device's name into Ops.
#pragma once

#include <memory>
#include <string>

#include "ops/ops.h"

namespace gossamer {

struct DeviceOptions {
  std::string device = "auto";     // auto | cpu | cuda | cuda:N | reference
  std::string dtype = "auto";      // of activations: auto | float32 | bfloat16 | float16
  std::string isa = "auto";        // auto | portable | avx2 | avx512 | avx512-bf16 (CPU)
  int num_threads = 0;             // 0 = available_cores() (CPU)
  std::string eight_bit = "auto";  // auto | off | weights | activations: BackendOptions (GPU)
  bool batch_invariant = false;    // BackendOptions (GPU); the CPU's outputs never depend on the batch
  std::string cost_table{};        // likewise
};

// allocator: for host memory; outlives the Ops. Throws InvalidArgument for a name it does not know, DeviceError for a device that this
// machine or build lacks.
std::unique_ptr<Ops> make_ops(const DeviceOptions& options, Allocator& allocator);

}  // namespace gossamer
