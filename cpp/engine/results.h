// What callers get back: plain data shared by the engine and the facade.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace gossamer {

using RequestId = std::uint64_t;
enum class FinishReason { none, stop, length, abort };

struct TokenLogprob {
  std::int32_t token;
  float logprob;
  std::int32_t rank;  // 1 = most likely
};

// What happened to one of a request's n samples since it was last asked about.
struct SampleDelta {
  std::int64_t sample = 0;
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<TokenLogprob>> logprobs;  // per token when asked for: own first, then the most likely
  FinishReason finish_reason = FinishReason::none;
  std::optional<std::int32_t> stop_token;  // the token that ended it, if one did; it is the last of `tokens`
};

// Per logical weight name: sum over tokens of the squared input, per input feature.
struct Calibration {
  std::int64_t num_tokens = 0;
  std::map<std::string, std::vector<double>> sum_squares;
};

}  // namespace gossamer
