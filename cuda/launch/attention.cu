#include <algorithm>
#include <bit>
#include <type_traits>

#include "kernels/attention_any.cuh"
#include "kernels/attention_decode.cuh"
#include "kernels/rope_kv.cuh"
#include "launch/attention.h"
#include "launch/dispatch.cuh"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMaxDecodeQueries = 4;  // per sequence: each reads the context anew

// Query heads per block: the largest power of two, up to 8, that divides the heads of a KV head.
int heads_per_block(const PagedAttentionParams& p) {
  const int group = p.num_heads / p.num_kv_heads;
  for (const int heads : {8, 4, 2}) {
    if (group % heads == 0) return heads;
  }
  return 1;
}

template <class T, int kLanes, int kHeads>
cudaError_t launch_decode_instance(const PagedAttentionParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.n), static_cast<unsigned>(p.num_heads / kHeads), static_cast<unsigned>(p.num_splits));
  const int block_shift = std::countr_zero(static_cast<unsigned>(p.block_size));
  attention_decode_kernel<T, kLanes, kHeads><<<grid, kDecodeWarps * 32, 0, stream>>>(p, block_shift);
  if (p.num_splits > 1) {
    const dim3 outputs(static_cast<unsigned>(p.n), static_cast<unsigned>(p.num_heads));
    const auto threads = static_cast<unsigned>(std::min(128, (p.head_dim + 31) / 32 * 32));
    attention_combine_kernel<T><<<outputs, threads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

template <class T, int kLanes>
cudaError_t launch_decode_heads(const PagedAttentionParams& p, cudaStream_t stream) {
  switch (heads_per_block(p)) {
    case 8: return launch_decode_instance<T, kLanes, 8>(p, stream);
    case 4: return launch_decode_instance<T, kLanes, 4>(p, stream);
    case 2: return launch_decode_instance<T, kLanes, 2>(p, stream);
    default: return launch_decode_instance<T, kLanes, 1>(p, stream);
  }
}

template <class T>
cudaError_t launch_decode(const PagedAttentionParams& p, cudaStream_t stream) {
  if (p.head_dim <= 32) return launch_decode_heads<T, 4>(p, stream);
  if (p.head_dim <= 64) return launch_decode_heads<T, 8>(p, stream);
  if (p.head_dim <= 128) return launch_decode_heads<T, 16>(p, stream);
  return launch_decode_heads<T, 32>(p, stream);
}

template <class T, class Kv>
cudaError_t launch_any(const PagedAttentionParams& p, cudaStream_t stream) {
  const std::int64_t units = std::int64_t{p.n} * p.num_heads;
  const auto shared = static_cast<std::size_t>(kAnyWarps * p.head_dim) * sizeof(float);
  attention_any_kernel<T, Kv><<<static_cast<unsigned>((units + kAnyWarps - 1) / kAnyWarps), kAnyWarps * 32, shared, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_rope_kv(const RopeKvParams& params, DType act, DType kv, cudaStream_t stream) {
  const int work = std::max(params.num_kv_heads * params.head_dim, (params.num_heads + params.num_kv_heads) * params.rotary_half);
  const auto threads = static_cast<unsigned>(std::clamp((work + 31) / 32 * 32, 32, 512));
  return visit_half(act, [&](auto act_tag) {
    return visit_device(kv, [&](auto kv_tag) {
      rope_kv_kernel<typename decltype(act_tag)::type, typename decltype(kv_tag)::type>
          <<<static_cast<unsigned>(params.n), threads, 0, stream>>>(params);
      return cudaGetLastError();
    });
  });
}

AttentionPlan plan_attention(const PagedAttentionParams& p, DType act, DType kv, std::int64_t max_query_len, std::int64_t max_context_len) {
  const bool is_aligned =
      p.head_dim % 8 == 0 && is_vectorizable(p.q, p.q_token, p.q_head) && is_vectorizable(p.keys) && is_vectorizable(p.values);
  const bool is_decode =
      act == kv && is_aligned && std::has_single_bit(static_cast<unsigned>(p.block_size)) && max_query_len <= kMaxDecodeQueries;
  AttentionPlan plan;
  if (!is_decode) return plan;
  plan.kernel = AttentionKernel::decode;
  plan.num_splits = static_cast<std::int32_t>(std::max<std::int64_t>(1, (max_context_len + kSplitTokens - 1) / kSplitTokens));
  if (plan.num_splits > 1) plan.partial_floats = std::int64_t{p.n} * p.num_heads * plan.num_splits * (p.head_dim + 2);
  return plan;
}

cudaError_t launch_attention(const PagedAttentionParams& params, const AttentionPlan& plan, DType act, DType kv, cudaStream_t stream) {
  return visit_half(act, [&](auto act_tag) {
    using T = typename decltype(act_tag)::type;
    if (plan.kernel == AttentionKernel::decode) return launch_decode<T>(params, stream);
    return visit_device(kv, [&](auto kv_tag) { return launch_any<T, typename decltype(kv_tag)::type>(params, stream); });
  });
}

}  // namespace gossamer::cuda
