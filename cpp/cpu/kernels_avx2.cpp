// The kernels for AVX2 with FMA and F16C.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// clang-format off: each is written in terms of those before it
#include "cpu/vec_avx2.h"
#include "cpu/vec_math.h"
#include "cpu/kernels_readers.h"
#include "cpu/kernels_linear.h"
#include "cpu/kernels_attention.h"
#include "cpu/kernels_rowwise.h"
// clang-format on

namespace gossamer::cpu {

const Kernels* avx2_kernels() {
  static constexpr Kernels kernels{linear,   nullptr,    nullptr, nullptr, nullptr, nullptr, attention,
                                   rms_norm, layer_norm, gated,   rotate,  add_row, widen,   narrow};
  return &kernels;
}

}  // namespace gossamer::cpu
#else
#include "cpu/kernels.h"

namespace gossamer::cpu {

const Kernels* avx2_kernels() { return nullptr; }

}  // namespace gossamer::cpu
#endif
