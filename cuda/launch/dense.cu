#include "kernels/dense.cuh"
#include "launch/dense.h"
#include "launch/dependent.cuh"
#include "launch/dispatch.cuh"

namespace gossamer::cuda {
namespace {

template <class T, class Out, int kTokens>
cudaError_t launch_tokens(const DenseParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.m + kDenseWarps - 1) / kDenseWarps), static_cast<unsigned>((p.n + kTokens - 1) / kTokens));
  const bool is_vector = p.k % 8 == 0 && is_vectorizable(p.x, p.ldx);
  return launch_kernel(is_vector ? dense_kernel<T, Out, kTokens, true> : dense_kernel<T, Out, kTokens, false>, grid, dim3(kDenseWarps * 32),
                       0, stream, p.overlaps, p);
}

template <class T, class Out>
cudaError_t launch_out(const DenseParams& p, cudaStream_t stream) {
  if (p.n == 1) return launch_tokens<T, Out, 1>(p, stream);
  if (p.n == 2) return launch_tokens<T, Out, 2>(p, stream);
  if (p.n <= 4) return launch_tokens<T, Out, 4>(p, stream);
  return launch_tokens<T, Out, 8>(p, stream);
}

}  // namespace

cudaError_t launch_dense(const DenseParams& params, DType act, DType out, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return out == DType::f32 ? launch_out<T, float>(params, stream) : launch_out<T, T>(params, stream);
  });
}

}  // namespace gossamer::cuda
