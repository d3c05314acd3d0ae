// What a device needs to turn logits into tokens: plain data, the same for CPU and GPU.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace gossamer {

// Adjustments of one token's logit in one row; sorted by row, then token. Penalties apply to tokens seen before.
struct TokenAdjustment {
  std::int32_t row;
  std::int32_t token;
  std::int32_t output_count;  // times the token was generated: presence and frequency penalties
  bool seen;                  // in the prompt or the output: repetition penalty
  float bias;                 // added last; -infinity bans the token (logit_bias, min_tokens)
};

struct SampleRow {
  float temperature = 1.0F;  // 0 = greedy; ties go to the smaller token id
  std::int32_t top_k = 0;    // 0 = all
  float top_p = 1.0F;
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::uint64_t seed = 0;
  std::uint32_t sample_index = 0;  // which of the request's n samples
  std::uint32_t position = 0;      // index of the token to be drawn, prompt included: with seed and sample_index the Philox counter
  std::int32_t num_logprobs = -1;  // -1 = none, 0 = the token's own, j = own + the j most likely
  std::int32_t target = -1;        // >= 0: do not draw, report on this token (scoring)
};

struct SampleBatch {
  std::span<const SampleRow> rows;  // one per row of logits
  std::span<const TokenAdjustment> adjustments;
};

// Host memory; every element is written. Log-probabilities are of the raw logits (before penalties and temperature), natural logarithm.
struct SampleResult {
  std::span<std::int32_t> tokens;      // [rows]; -1 where the row is not finite (NaN or +infinity, or all -infinity), raw or adjusted
  std::span<float> logprobs;           // [rows]; NaN where not asked for or the token is -1
  std::span<std::int32_t> ranks;       // [rows], 1 = most likely, ties by token id; 0 where the logprob is NaN
  std::span<std::int32_t> top_tokens;  // [rows, max_logprobs], most likely first, ties to the smaller id; -1 = unused
  std::span<float> top_logprobs;       // [rows, max_logprobs]
  std::int32_t max_logprobs = 0;
};

// Philox4x32-10 (Salmon et al., SC'11).
using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;
PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key);
// Uniform in (0, 1): (word 0 + 0.5) / 2^32 of counter {position, sample_index, 0, 0}, key = seed.
double philox_uniform(std::uint64_t seed, std::uint32_t sample_index, std::uint32_t position);

}  // namespace gossamer
