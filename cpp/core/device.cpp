#include "core/device.h"

namespace gossamer {

std::string Device::to_string() const { return kind == Kind::cpu ? "cpu" : "cuda:" + std::to_string(index); }

}  // namespace gossamer
