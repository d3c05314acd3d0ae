#include "engine/sampling_params.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string_view>

#include "core/error.h"

namespace gossamer {

namespace {

template <typename T>
void require_field(bool is_valid, std::string_view field, std::string_view range, T found) {
  if (is_valid) return;
  std::ostringstream message;
  message << field << " must be " << range << ", not " << found;
  throw InvalidArgument(message.str());
}

// NaN is in no range.
void require_between(std::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return;
  std::ostringstream range;
  range << "between " << low << " and " << high;
  require_field(false, field, range.str(), value);
}

void require_between(std::string_view field, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return;
  require_field(false, field, "between " + std::to_string(low) + " and " + std::to_string(high), value);
}

void validate_logit_bias(const std::vector<std::pair<std::int32_t, double>>& bias, std::int64_t vocab_size) {
  require_between("the number of entries in logit_bias", std::ssize(bias), 0, kMaxLogitBias);
  std::vector<std::int32_t> tokens;
  for (const auto& [token, value] : bias) {
    require_between("a token id in logit_bias", std::int64_t{token}, 0, vocab_size - 1);
    require_between("a value in logit_bias", value, -100, 100);
    tokens.push_back(token);
  }
  std::sort(tokens.begin(), tokens.end());
  const auto twice = std::adjacent_find(tokens.begin(), tokens.end());
  if (twice != tokens.end()) throw InvalidArgument("logit_bias must name each token once, not " + std::to_string(*twice) + " twice");
}

}  // namespace

void SamplingParams::validate(std::int64_t vocab_size) const {
  constexpr std::int64_t kMaxInt = std::numeric_limits<std::int64_t>::max();
  require_between("n", n, 1, kMaxSamples);
  require_between("temperature", temperature, 0, kMaxTemperature);
  require_field(top_k >= -1 && top_k <= std::numeric_limits<std::int32_t>::max(), "top_k", "-1 or 0 (all tokens) or at least 1", top_k);
  require_field(top_p > 0 && top_p <= 1, "top_p", "above 0 and at most 1", top_p);
  require_between("min_p", min_p, 0, 1);
  require_field(repetition_penalty > 0 && repetition_penalty <= 100, "repetition_penalty", "above 0 and at most 100", repetition_penalty);
  require_between("presence_penalty", presence_penalty, -2, 2);
  require_between("frequency_penalty", frequency_penalty, -2, 2);
  require_between("the number of stop_token_ids", std::ssize(stop_token_ids), 0, kMaxStopTokens);
  for (const std::int32_t token : stop_token_ids) require_between("a stop token id", std::int64_t{token}, 0, vocab_size - 1);
  if (max_tokens) require_between("max_tokens", *max_tokens, 0, kMaxInt);
  require_between("min_tokens", min_tokens, 0, max_tokens.value_or(kMaxInt));
  if (logprobs) require_between("logprobs", *logprobs, 0, kMaxLogprobs);
  if (prompt_logprobs) require_between("prompt_logprobs", *prompt_logprobs, 0, kMaxLogprobs);
  validate_logit_bias(logit_bias, vocab_size);
}

}  // namespace gossamer
