// Sequence: one of a request's n samples, as the engine thread sees it. Made on the caller's thread with all its room reserved.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling_params.h"
#include "kv/block_manager.h"
#include "ops/sampling.h"

namespace gossamer {

struct TokenBias {
  std::int32_t token;
  float bias;
};

// A token that the sequence has seen, in its prompt or its output.
struct TokenCount {
  std::int32_t token;
  std::int32_t output_count;
};

struct Sequence {
  SequenceId id = 0;
  std::int64_t num_prompt = 0;
  std::int64_t max_tokens = 0;
  std::int64_t min_tokens = 0;
  std::vector<std::int32_t> tokens;    // prompt, then output
  SampleRow row;                       // all but position and target
  std::vector<std::int32_t> stop_ids;  // sorted; any of them ends the sequence, once min_tokens were drawn
  std::vector<TokenBias> biases;       // sorted by token
  bool has_penalties = false;
  std::vector<TokenCount> counts;     // sorted by token; kept when has_penalties
  std::int32_t prompt_logprobs = -1;  // as SampleRow::num_logprobs
  std::int64_t next_scored = 1;       // the next prompt position to score; survives preemption
  std::int32_t drawn_row = -1;        // of the last step that drew a token for it

  std::int64_t num_tokens() const { return std::ssize(tokens); }
  std::int64_t num_output() const { return num_tokens() - num_prompt; }
  bool stops_at(std::int32_t token) const;
  // Allocates nothing.
  void append(std::int32_t token);
};

// What the samples of a request share besides its parameters.
struct SequenceSpec {
  std::span<const std::int32_t> prompt;
  const SamplingParams& params;  // validated
  std::int64_t max_tokens;       // resolved against the context
  std::uint64_t seed;
  std::span<const std::int64_t> eos_ids;  // of the model
};

Sequence make_sequence(const SequenceSpec& spec, SequenceId id, std::int64_t sample);

}  // namespace gossamer
