#include "runtime.h"

namespace gossamer {

std::string version() { return "0.1.0"; }

}  // namespace gossamer
