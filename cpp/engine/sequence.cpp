#include "engine/sequence.h"

#include <algorithm>

namespace gossamer {

namespace {

constexpr double kGreedyBelow = 1e-5;  // temperatures, as in vLLM

SampleRow make_row(const SequenceSpec& spec, std::int64_t sample) {
  const SamplingParams& params = spec.params;
  SampleRow row;
  row.temperature = params.temperature < kGreedyBelow ? 0.0F : static_cast<float>(params.temperature);
  row.top_k = static_cast<std::int32_t>(std::max<std::int64_t>(params.top_k, 0));
  row.top_p = static_cast<float>(params.top_p);
  row.min_p = static_cast<float>(params.min_p);
  row.repetition_penalty = static_cast<float>(params.repetition_penalty);
  row.presence_penalty = static_cast<float>(params.presence_penalty);
  row.frequency_penalty = static_cast<float>(params.frequency_penalty);
  row.seed = spec.seed;
  row.sample_index = static_cast<std::uint32_t>(sample);
  row.num_logprobs = static_cast<std::int32_t>(params.logprobs.value_or(-1));
  return row;
}

std::vector<std::int32_t> make_stop_ids(const SequenceSpec& spec) {
  std::vector<std::int32_t> ids = spec.params.stop_token_ids;
  if (!spec.params.ignore_eos) {
    for (const std::int64_t id : spec.eos_ids) ids.push_back(static_cast<std::int32_t>(id));
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::vector<TokenBias> make_biases(const SamplingParams& params) {
  std::vector<TokenBias> biases;
  for (const auto& [token, bias] : params.logit_bias) biases.push_back({token, static_cast<float>(bias)});
  std::sort(biases.begin(), biases.end(), [](const TokenBias& a, const TokenBias& b) { return a.token < b.token; });
  return biases;
}

std::vector<TokenCount> count_prompt(std::span<const std::int32_t> prompt, std::int64_t max_tokens) {
  std::vector<std::int32_t> sorted(prompt.begin(), prompt.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  std::vector<TokenCount> counts;
  counts.reserve(sorted.size() + static_cast<std::size_t>(max_tokens));
  for (const std::int32_t token : sorted) counts.push_back({token, 0});
  return counts;
}

}  // namespace

bool Sequence::stops_at(std::int32_t token) const { return std::binary_search(stop_ids.begin(), stop_ids.end(), token); }

void Sequence::append(std::int32_t token) {
  tokens.push_back(token);
  if (!has_penalties) return;
  const auto found =
      std::lower_bound(counts.begin(), counts.end(), token, [](const TokenCount& c, std::int32_t key) { return c.token < key; });
  if (found != counts.end() && found->token == token) {
    ++found->output_count;
  } else {
    counts.insert(found, {token, 1});
  }
}

Sequence make_sequence(const SequenceSpec& spec, SequenceId id, std::int64_t sample) {
  const SamplingParams& params = spec.params;
  Sequence sequence;
  sequence.id = id;
  sequence.num_prompt = std::ssize(spec.prompt);
  sequence.max_tokens = spec.max_tokens;
  sequence.min_tokens = params.min_tokens;
  sequence.tokens.reserve(spec.prompt.size() + static_cast<std::size_t>(spec.max_tokens));
  sequence.tokens.assign(spec.prompt.begin(), spec.prompt.end());
  sequence.row = make_row(spec, sample);
  sequence.stop_ids = make_stop_ids(spec);
  sequence.biases = make_biases(params);
  sequence.has_penalties = params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
  if (sequence.has_penalties) sequence.counts = count_prompt(spec.prompt, spec.max_tokens);
  if (sample == 0) sequence.prompt_logprobs = static_cast<std::int32_t>(params.prompt_logprobs.value_or(-1));
  return sequence;
}

}  // namespace gossamer
