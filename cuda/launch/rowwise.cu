#include <algorithm>

#include "kernels/rowwise.cuh"
#include "launch/dependent.cuh"
#include "launch/dispatch.cuh"
#include "launch/rowwise.h"

namespace gossamer::cuda {
namespace {

unsigned rows(std::int64_t n) { return static_cast<unsigned>(n); }

// Whole warps, enough for a row of `size`, at most `most`.
unsigned threads_for(std::int64_t size, std::int64_t most = 256) {
  return static_cast<unsigned>(std::clamp<std::int64_t>((size + 31) / 32 * 32, 32, most));
}

}  // namespace

cudaError_t launch_embedding(const EmbeddingParams& params, DType act, DType table, cudaStream_t stream) {
  return visit_half(act, [&](auto out_tag) {
    return visit_device(table, [&](auto table_tag) {
      const auto kernel = embedding_kernel<typename decltype(out_tag)::type, typename decltype(table_tag)::type>;
      return launch_kernel(kernel, rows(params.n), threads_for(params.size), 0, stream, params.overlaps, params);
    });
  });
}

cudaError_t launch_norm(const NormParams& params, DType act, cudaStream_t stream) {
  constexpr int kPerThread = 2;
  const bool is_layer_norm = params.bias != nullptr;
  const bool is_vector = params.size % 8 == 0 && params.size <= std::int64_t{8} * kPerThread * 1024 &&
                         is_vectorizable(params.x, params.x_outer, params.x_inner) &&
                         is_vectorizable(params.out, params.out_outer, params.out_inner) && is_vectorizable(params.weight) &&
                         is_vectorizable(params.bias);
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (is_vector) {
      const auto kernel = is_layer_norm ? norm_vector_kernel<T, true, kPerThread> : norm_vector_kernel<T, false, kPerThread>;
      const unsigned threads = threads_for((params.size / 8 + kPerThread - 1) / kPerThread, 1024);
      return launch_kernel(kernel, rows(params.vectors), threads, 0, stream, params.overlaps, params);
    }
    const auto kernel = is_layer_norm ? norm_kernel<T, true> : norm_kernel<T, false>;
    return launch_kernel(kernel, rows(params.vectors), threads_for(params.size, 1024), 0, stream, params.overlaps, params);
  });
}

cudaError_t launch_gated(const GatedParams& params, DType act, cudaStream_t stream) {
  const bool is_vector = params.size % 8 == 0 && is_vectorizable(params.gate_up, params.in_stride, params.size) &&
                         is_vectorizable(params.out, params.out_stride);
  constexpr unsigned kThreads = 128;
  const std::int64_t items = is_vector ? params.size / 8 : params.size;
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr std::int64_t kMostRows = 65535;  // of a grid's y
    cudaError_t status = cudaSuccess;
    for (std::int64_t first = 0; first < params.n && status == cudaSuccess; first += kMostRows) {
      GatedParams part = params;
      part.n = std::min(kMostRows, params.n - first);
      part.out = static_cast<T*>(params.out) + first * params.out_stride;
      part.gate_up = static_cast<const T*>(params.gate_up) + first * params.in_stride;
      const dim3 grid(static_cast<unsigned>((items + kThreads - 1) / kThreads), static_cast<unsigned>(part.n));
      status = launch_kernel(is_vector ? gated_kernel<T, true> : gated_kernel<T, false>, grid, kThreads, 0, stream, part.overlaps, part);
    }
    return status;
  });
}

cudaError_t launch_gather(const GatherParams& params, DType act, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    const auto kernel = gather_kernel<typename decltype(tag)::type>;
    return launch_kernel(kernel, rows(params.n), threads_for(params.size), 0, stream, params.overlaps, params);
  });
}

cudaError_t launch_read(const void* memory, std::int64_t bytes, std::uint32_t* sink, int num_sms, cudaStream_t stream) {
  const auto* words = static_cast<const uint4*>(memory);
  return launch_kernel(read_kernel, static_cast<unsigned>(4 * num_sms), 512, 0, stream, false, words, bytes / 16, sink);
}

cudaError_t launch_take(const TakeParams& params, cudaStream_t stream) {
  constexpr std::int64_t kThreads = 128;
  return launch_kernel(take_kernel, static_cast<unsigned>((params.n + kThreads - 1) / kThreads), kThreads, 0, stream, false, params);
}

cudaError_t launch_add(const AddParams& params, DType act, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    const auto kernel = add_kernel<typename decltype(tag)::type>;
    return launch_kernel(kernel, rows(params.n), threads_for(params.size), 0, stream, params.overlaps, params);
  });
}

cudaError_t launch_epilogue(const EpilogueParams& params, DType act, DType out, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto kernel = out == DType::f32 ? epilogue_kernel<T, float> : epilogue_kernel<T, T>;
    return launch_kernel(kernel, rows(params.n), threads_for(params.size), 0, stream, params.overlaps, params);
  });
}

}  // namespace gossamer::cuda
