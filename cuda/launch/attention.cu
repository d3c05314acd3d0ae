#include <algorithm>
#include <bit>
#include <type_traits>

#include "kernels/attention_any.cuh"
#include "kernels/attention_decode.cuh"
#include "kernels/attention_prefill.cuh"
#include "kernels/rope_kv.cuh"
#include "launch/attention.h"
#include "launch/dependent.cuh"
#include "launch/dispatch.cuh"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kMaxDecodeQueries = 4;  // per sequence: each reads the context anew
constexpr std::int32_t kMaxPrefillHeadDim = 128;

// Query heads per block: the largest power of two, up to 8, that divides the heads of a KV head.
int heads_per_block(const PagedAttentionParams& p) {
  const int group = p.num_heads / p.num_kv_heads;
  for (const int heads : {8, 4, 2}) {
    if (group % heads == 0) return heads;
  }
  return 1;
}

int block_shift_of(const PagedAttentionParams& p) { return std::countr_zero(static_cast<unsigned>(p.block_size)); }

// Lanes that share a head in the decode kernel, eight elements each.
int lanes_for(int head_dim) { return head_dim <= 32 ? 4 : head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32; }

template <class T, int kLanes, int kHeads>
cudaError_t launch_decode_instance(const PagedAttentionParams& p, const NewTokenParams* fresh, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.n), static_cast<unsigned>(p.num_heads / kHeads), static_cast<unsigned>(p.num_splits));
  const auto kernel =
      fresh != nullptr ? attention_decode_kernel<T, kLanes, kHeads, true> : attention_decode_kernel<T, kLanes, kHeads, false>;
  const cudaError_t status = launch_kernel(kernel, grid, dim3(kDecodeWarps * 32), 0, stream, p.overlaps, p,
                                           fresh != nullptr ? *fresh : NewTokenParams{}, block_shift_of(p));
  if (status != cudaSuccess || p.num_splits == 1) return status;
  const dim3 outputs(static_cast<unsigned>(p.n), static_cast<unsigned>(p.num_heads));
  const auto threads = static_cast<unsigned>(std::min(128, (p.head_dim + 31) / 32 * 32));
  return launch_kernel(attention_combine_kernel<T>, outputs, dim3(threads), 0, stream, p.overlaps, p);
}

template <class T, int kLanes>
cudaError_t launch_decode_heads(const PagedAttentionParams& p, const NewTokenParams* fresh, cudaStream_t stream) {
  switch (heads_per_block(p)) {
    case 8: return launch_decode_instance<T, kLanes, 8>(p, fresh, stream);
    case 4: return launch_decode_instance<T, kLanes, 4>(p, fresh, stream);
    case 2: return launch_decode_instance<T, kLanes, 2>(p, fresh, stream);
    default: return launch_decode_instance<T, kLanes, 1>(p, fresh, stream);
  }
}

template <class T>
cudaError_t launch_decode(const PagedAttentionParams& p, const NewTokenParams* fresh, cudaStream_t stream) {
  switch (lanes_for(p.head_dim)) {
    case 4: return launch_decode_heads<T, 4>(p, fresh, stream);
    case 8: return launch_decode_heads<T, 8>(p, fresh, stream);
    case 16: return launch_decode_heads<T, 16>(p, fresh, stream);
    default: return launch_decode_heads<T, 32>(p, fresh, stream);
  }
}

template <class T, int kHeadDim>
cudaError_t launch_prefill(const PagedAttentionParams& p, cudaStream_t stream) {
  const auto kernel = attention_prefill_kernel<T, kHeadDim>;
  constexpr int kBytes = PrefillShared<kHeadDim>::kBytes;
  if (const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes); status != cudaSuccess) {
    return status;
  }
  // Every sequence may have one tile that is not full.
  const dim3 grid(static_cast<unsigned>(p.num_heads), static_cast<unsigned>(p.n / kPrefillQueries + p.num_seqs));
  return launch_kernel(kernel, grid, dim3(kPrefillWarps * 32), kBytes, stream, p.overlaps, p, block_shift_of(p));
}

template <class T, class Kv>
cudaError_t launch_any(const PagedAttentionParams& p, cudaStream_t stream) {
  const std::int64_t units = std::int64_t{p.n} * p.num_heads;
  const auto shared = static_cast<std::size_t>(kAnyWarps * p.head_dim) * sizeof(float);
  const auto blocks = static_cast<unsigned>((units + kAnyWarps - 1) / kAnyWarps);
  return launch_kernel(attention_any_kernel<T, Kv>, dim3(blocks), dim3(kAnyWarps * 32), shared, stream, p.overlaps, p);
}

}  // namespace

cudaError_t launch_rope_kv(const RopeKvParams& params, DType act, DType kv, cudaStream_t stream) {
  const int work = std::max(params.num_kv_heads * params.head_dim, (params.num_heads + params.num_kv_heads) * params.rotary_half);
  const auto threads = static_cast<unsigned>(std::clamp((work + 31) / 32 * 32, 32, 512));
  return visit_half(act, [&](auto act_tag) {
    return visit_device(kv, [&](auto kv_tag) {
      const auto kernel = rope_kv_kernel<typename decltype(act_tag)::type, typename decltype(kv_tag)::type>;
      return launch_kernel(kernel, dim3(static_cast<unsigned>(params.n)), dim3(threads), 0, stream, params.overlaps, params);
    });
  });
}

AttentionPlan plan_attention(const PagedAttentionParams& p, DType act, DType kv, std::int64_t max_query_len, std::int64_t max_context_len) {
  const bool is_fast = act == kv && p.head_dim % 8 == 0 && std::has_single_bit(static_cast<unsigned>(p.block_size)) &&
                       is_vectorizable(p.q, p.q_token, p.q_head) && is_vectorizable(p.keys) && is_vectorizable(p.values);
  AttentionPlan plan;
  if (!is_fast) return plan;
  if (max_query_len > kMaxDecodeQueries) {
    if (p.head_dim <= kMaxPrefillHeadDim) plan.kernel = AttentionKernel::prefill;
    return plan;
  }
  plan.kernel = AttentionKernel::decode;
  plan.num_splits = static_cast<std::int32_t>(std::max<std::int64_t>(1, (max_context_len + kSplitTokens - 1) / kSplitTokens));
  if (plan.num_splits > 1) plan.partial_floats = std::int64_t{p.n} * p.num_heads * plan.num_splits * (p.head_dim + 2);
  return plan;
}

bool takes_new_tokens(const PagedAttentionParams& p, const AttentionPlan& plan, std::int64_t max_query_len, const NewTokenParams& fresh,
                      std::int32_t rotary_half) {
  const bool is_aligned = is_vectorizable(fresh.k, fresh.k_token, fresh.k_head) && is_vectorizable(fresh.v, fresh.v_token, fresh.v_head);
  const bool rotates = fresh.cos != nullptr && rotary_half > 0;
  return plan.kernel == AttentionKernel::decode && max_query_len == 1 && is_aligned &&
         (!rotates || (2 * rotary_half == p.head_dim && p.head_dim == 8 * lanes_for(p.head_dim)));
}

cudaError_t launch_attention(const PagedAttentionParams& params, const AttentionPlan& plan, DType act, DType kv, cudaStream_t stream,
                             const NewTokenParams* fresh) {
  return visit_half(act, [&](auto act_tag) {
    using T = typename decltype(act_tag)::type;
    if (plan.kernel == AttentionKernel::decode) return launch_decode<T>(params, fresh, stream);
    if (plan.kernel == AttentionKernel::prefill) {
      return params.head_dim <= 64 ? launch_prefill<T, 64>(params, stream) : launch_prefill<T, 128>(params, stream);
    }
    return visit_device(kv, [&](auto kv_tag) { return launch_any<T, typename decltype(kv_tag)::type>(params, stream); });
  });
}

}  // namespace gossamer::cuda
