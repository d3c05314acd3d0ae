// Rotary position embedding: its configuration and its tables, computed on the host with the roundings of Hugging Face (fp32).
#pragma once

#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "model/config.h"
#include "model/config_reader.h"

namespace gossamer {

// transformers 4: rope_theta and rope_scaling {type | rope_type, ...}; transformers 5: rope_parameters {rope_type, rope_theta, ...}.
RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions);

// Inverse frequencies, fp32 [head_dim / 2].
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, std::int64_t head_dim, std::int64_t max_positions);

// cos and sin, f32 [num_positions, head_dim / 2] each, times the attention factor. Host tensors.
void fill_rope_tables(const Tensor& cos, const Tensor& sin, const std::vector<float>& inverse_frequencies, double attention_factor,
                      ThreadPool& pool);

}  // namespace gossamer
