#include <algorithm>

#include "kernels/rowwise.cuh"
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
      using T = typename decltype(out_tag)::type;
      using Table = typename decltype(table_tag)::type;
      embedding_kernel<T, Table><<<rows(params.n), threads_for(params.size), 0, stream>>>(params);
      return cudaGetLastError();
    });
  });
}

cudaError_t launch_norm(const NormParams& params, DType act, cudaStream_t stream) {
  constexpr int kPerThread = 2;
  const bool is_vector = params.bias == nullptr && params.size % 8 == 0 && params.size <= std::int64_t{8} * kPerThread * 1024 &&
                         is_vectorizable(params.x, params.x_outer, params.x_inner) &&
                         is_vectorizable(params.out, params.out_outer, params.out_inner) && is_vectorizable(params.weight);
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (is_vector) {
      const unsigned threads = threads_for((params.size / 8 + kPerThread - 1) / kPerThread, 1024);
      rms_norm_vector_kernel<T, kPerThread><<<rows(params.vectors), threads, 0, stream>>>(params);
    } else if (params.bias == nullptr) {
      norm_kernel<T, false><<<rows(params.vectors), threads_for(params.size, 1024), 0, stream>>>(params);
    } else {
      norm_kernel<T, true><<<rows(params.vectors), threads_for(params.size, 1024), 0, stream>>>(params);
    }
    return cudaGetLastError();
  });
}

cudaError_t launch_gated(const GatedParams& params, DType act, cudaStream_t stream) {
  const bool is_vector =
      params.size % 8 == 0 && is_vectorizable(params.gate_up, params.in_stride) && is_vectorizable(params.out, params.out_stride);
  constexpr unsigned kThreads = 128;
  const std::int64_t items = is_vector ? params.size / 8 : params.size;
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr std::int64_t kMostRows = 65535;  // of a grid's y
    for (std::int64_t first = 0; first < params.n; first += kMostRows) {
      GatedParams part = params;
      part.n = std::min(kMostRows, params.n - first);
      part.out = static_cast<T*>(params.out) + first * params.out_stride;
      part.gate_up = static_cast<const T*>(params.gate_up) + first * params.in_stride;
      const dim3 grid(static_cast<unsigned>((items + kThreads - 1) / kThreads), static_cast<unsigned>(part.n));
      if (is_vector) {
        gated_kernel<T, true><<<grid, kThreads, 0, stream>>>(part);
      } else {
        gated_kernel<T, false><<<grid, kThreads, 0, stream>>>(part);
      }
    }
    return cudaGetLastError();
  });
}

cudaError_t launch_gather(const GatherParams& params, DType act, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    gather_kernel<typename decltype(tag)::type><<<rows(params.n), threads_for(params.size), 0, stream>>>(params);
    return cudaGetLastError();
  });
}

cudaError_t launch_add(const AddParams& params, DType act, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    add_kernel<typename decltype(tag)::type><<<rows(params.n), threads_for(params.size), 0, stream>>>(params);
    return cudaGetLastError();
  });
}

cudaError_t launch_epilogue(const EpilogueParams& params, DType act, DType out, cudaStream_t stream) {
  return visit_half(act, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (out == DType::f32) {
      epilogue_kernel<T, float><<<rows(params.n), threads_for(params.size), 0, stream>>>(params);
    } else {
      epilogue_kernel<T, T><<<rows(params.n), threads_for(params.size), 0, stream>>>(params);
    }
    return cudaGetLastError();
  });
}

}  // namespace gossamer::cuda
