// How the CPU backend splits attention, rotates, and writes the cache. Host code: the kernels do the arithmetic.
#pragma once

#include <vector>

#include "cpu/kernels.h"
#include "ops/ops.h"

namespace gossamer::cpu {

// The checks that need the batch's contents; they cost a pass over its integers.
void check_rope_batch(const RopeTable* rope, const KvLayer& kv, const Batch& batch);
void rope_and_write_token(const Kernels& kernels, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope,
                          const KvLayer& kv, const Batch& batch, std::int64_t token);

// Splits the batch into units, the longest first. `units` keeps its capacity from step to step.
void plan_attention(std::vector<AttentionUnit>& units, const Tensor& q, const KvLayer& kv, const Batch& batch, std::int64_t window,
                    int num_threads);
AttentionTask attention_task(const Tensor& out, const Tensor& q, const KvLayer& kv, const AttentionParams& params);

}  // namespace gossamer::cpu
