// Paged attention and rotary embedding of the reference backend.
#pragma once

#include "ops/ops.h"

namespace gossamer {

void reference_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                                 const Batch& batch);
void reference_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params);

}  // namespace gossamer
