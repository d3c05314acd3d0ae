// Plain parameter structs of sampling; shared by host and device code. Meanings are those of ops/sampling.h.
#pragma once

#include <cstdint>

namespace gossamer::cuda {

struct SampleRowParams {
  float inverse_temperature = 1.0F;
  float top_p = 1.0F, min_p = 0.0F;
  float repetition_penalty = 1.0F, presence_penalty = 0.0F, frequency_penalty = 0.0F;
  double uniform = 0.0;  // Philox's number, made on the host
  std::int32_t top_k = 0;
  std::int32_t num_logprobs = -1;
  std::int32_t target = -1;
  std::int32_t first_adjustment = 0, num_adjustments = 0;
  std::int32_t is_greedy = 0;
};

struct AdjustmentParams {
  std::int32_t token = 0;
  std::int32_t output_count = 0;
  float bias = 0.0F;
  std::int32_t seen = 0;
};

struct SampleParams {
  float* logits = nullptr;  // [rows, vocab]; left as it was
  const SampleRowParams* rows = nullptr;
  const AdjustmentParams* adjustments = nullptr;
  float* saved = nullptr;  // [adjustments]
  std::int32_t* tokens = nullptr;
  float* logprobs = nullptr;
  std::int32_t* ranks = nullptr;
  std::int32_t* top_tokens = nullptr;  // [rows, max_logprobs]
  float* top_logprobs = nullptr;
  std::int64_t stride = 0;
  std::int32_t num_rows = 0, vocab = 0, max_logprobs = 0;
};

}  // namespace gossamer::cuda
