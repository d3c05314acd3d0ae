#pragma once

#include "ops/plugin.h"

namespace gossamer::cuda {

// Driver and runtime versions and the devices; DeviceError when the driver is missing, too old, or shows no device.
BackendProbe probe_devices();

}  // namespace gossamer::cuda
