// The kernels for AVX-512 (F, BW, VL, DQ, VBMI, VBMI2, VNNI).
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI2__)
// clang-format off: each is written in terms of those before it
#include "cpu/vec_avx512.h"
#include "cpu/vec_math.h"
#include "cpu/kernels_readers.h"
#include "cpu/kernels_linear.h"
#include "cpu/kernels_dot8.h"
#include "cpu/kernels_dot4.h"
#include "cpu/kernels_attention.h"
#include "cpu/kernels_rowwise.h"
// clang-format on

namespace gossamer::cpu {

const Kernels* avx512_kernels() {
  static constexpr Kernels kernels{linear,   nullptr,    dot8,  dot4,   round_to_bytes, center_bytes, attention,
                                   rms_norm, layer_norm, gated, rotate, add_row,        widen,        narrow};
  return &kernels;
}

}  // namespace gossamer::cpu
#else
#include "cpu/kernels.h"

namespace gossamer::cpu {

const Kernels* avx512_kernels() { return nullptr; }

}  // namespace gossamer::cpu
#endif
