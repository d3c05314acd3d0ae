// A backend of another build: its C++ must never be called.
#include <cstdlib>

#include "ops/plugin.h"

namespace {

const gossamer::Backend* backend() { std::abort(); }

constexpr gossamer::BackendPlugin kPlugin{"0.0.0+000000000000", &backend};

}  // namespace

extern "C" const gossamer::BackendPlugin* gossamer_backend_plugin() { return &kPlugin; }
