// SamplingParams: vLLM's names and meanings. Stop strings are matched in Python on the detokenised text.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace gossamer {

// Limits of what one request may ask for; a request beyond them is refused before it costs anything.
inline constexpr std::int64_t kMaxSamples = 128;
inline constexpr std::int64_t kMaxLogprobs = 20;
inline constexpr std::int64_t kMaxStopTokens = 1024;
inline constexpr std::int64_t kMaxLogitBias = 1024;
inline constexpr double kMaxTemperature = 1e4;

struct SamplingParams {
  std::int64_t n = 1;
  double temperature = 1.0;  // 0 = greedy; below 1e-5 counts as 0
  std::int64_t top_k = 0;    // 0 or -1 = all
  double top_p = 1.0;
  double min_p = 0.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  double frequency_penalty = 0.0;
  std::optional<std::uint64_t> seed;  // default: drawn from the Runtime's seed and the request number
  std::vector<std::int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::optional<std::int64_t> max_tokens = 16;  // nullopt = the rest of the context; 0 = score the prompt only
  std::int64_t min_tokens = 0;
  std::optional<std::int64_t> logprobs;  // j most likely besides the token's own
  std::optional<std::int64_t> prompt_logprobs;
  std::vector<std::pair<std::int32_t, double>> logit_bias;

  // Throws InvalidArgument naming the field and its range.
  void validate(std::int64_t vocab_size) const;
};

}  // namespace gossamer
