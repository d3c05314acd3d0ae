// The kernels for any CPU.
// clang-format off: each is written in terms of those before it
#include "cpu/vec_portable.h"
#include "cpu/vec_math.h"
#include "cpu/kernels_readers.h"
#include "cpu/kernels_linear.h"
#include "cpu/kernels_attention.h"
#include "cpu/kernels_rowwise.h"
// clang-format on

namespace gossamer::cpu {

const Kernels* portable_kernels() {
  static constexpr Kernels kernels{linear,   nullptr,    nullptr, nullptr, nullptr, nullptr, attention,
                                   rms_norm, layer_norm, gated,   rotate,  add_row, widen,   narrow};
  return &kernels;
}

}  // namespace gossamer::cpu
