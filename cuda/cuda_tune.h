// Measures a cost table on this machine's GPU.
#pragma once

#include <functional>
#include <string>

namespace gossamer::cuda {

// The text of the table (plan/cost_table_text.h), after one to two minutes. Needs cuBLASLt, the rival; throws DeviceError without it or the
// device, OutOfMemoryError where a GiB of weights and as much again for their dense form do not fit.
std::string tune_device(int device_index, const std::function<void(const std::string& what)>& progress);

}  // namespace gossamer::cuda
