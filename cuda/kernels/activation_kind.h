// Which activation; the order is that of Activation (ops/ops.h).
#pragma once

#include <cstdint>

namespace gossamer::cuda {

enum class Act : std::int32_t { none, relu, gelu, gelu_tanh, silu };

}  // namespace gossamer::cuda
