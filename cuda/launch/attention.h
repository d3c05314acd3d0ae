// Launches rotary embedding with KV write, and paged attention.
#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "kernels/attention_params.h"

namespace gossamer::cuda {

cudaError_t launch_rope_kv(const RopeKvParams& params, DType act, DType kv, cudaStream_t stream);

enum class AttentionKernel { any, decode, prefill };

// How one call runs; a function of sizes alone, so that a recorded step and a plain one agree.
struct AttentionPlan {
  AttentionKernel kernel = AttentionKernel::any;
  std::int32_t num_splits = 1;
  std::int64_t partial_floats = 0;  // workspace
};
AttentionPlan plan_attention(const PagedAttentionParams& params, DType act, DType kv, std::int64_t max_query_len,
                             std::int64_t max_context_len);
inline constexpr std::int32_t kMaxHeadDim = 256;

// Whether the planned kernel can rotate and write the step's tokens itself.
bool takes_new_tokens(const PagedAttentionParams& params, const AttentionPlan& plan, std::int64_t max_query_len,
                      const NewTokenParams& fresh, std::int32_t rotary_half);

// params.num_splits and partials as planned. fresh: null, or what takes_new_tokens() said yes to.
cudaError_t launch_attention(const PagedAttentionParams& params, const AttentionPlan& plan, DType act, DType kv, cudaStream_t stream,
                             const NewTokenParams* fresh = nullptr);

}  // namespace gossamer::cuda
