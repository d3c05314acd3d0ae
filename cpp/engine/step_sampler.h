// StepSampler: asks the device for tokens and log-probabilities of the rows that a step wants.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/executor.h"
#include "engine/results.h"
#include "engine/sequence.h"

namespace gossamer {

// One row of logits that is wanted: the distribution of the token at `position`, given all before it.
struct RowRequest {
  const Sequence* sequence = nullptr;
  std::int32_t row = 0;       // index of a token of the step
  std::int64_t position = 0;  // inside the prompt: that token is scored; right after the last token: one is drawn
};

// A token drawn, or a prompt token scored.
struct TokenEvent {
  SequenceId sequence = 0;
  bool is_prompt = false;
  std::int32_t token = 0;         // -1: the row's logits were not finite
  std::size_t first_logprob = 0;  // StepEvents::logprobs: own first, then the most likely
  std::int32_t num_logprobs = 0;  // 0 = not asked for; fewer than the vocabulary holds: the rest has token -1
};

class StepSampler {
 public:
  StepSampler(Ops& ops, std::int64_t max_rows);

  // Makes room for `count` sequences as demanding as this one, so that their steps need not.
  void reserve(const Sequence& sequence, std::int64_t count);
  // Appends one event per request, in order.
  void run(Executor& executor, std::span<const RowRequest> requests, std::vector<TokenEvent>& events, std::vector<TokenLogprob>& logprobs);

 private:
  void prepare(std::span<const RowRequest> requests);
  void add_adjustments(std::int32_t row, const Sequence& sequence);
  void report(std::span<const RowRequest> requests, std::vector<TokenEvent>& events, std::vector<TokenLogprob>& logprobs) const;

  Ops& ops_;
  std::vector<std::int32_t> row_indices_;
  std::vector<SampleRow> rows_;
  std::vector<TokenAdjustment> adjustments_;
  std::int32_t max_logprobs_ = 0;  // of the rows at hand
  std::vector<std::int32_t> tokens_;
  std::vector<float> own_logprobs_;
  std::vector<std::int32_t> ranks_;
  std::vector<std::int32_t> top_tokens_;
  std::vector<float> top_logprobs_;
};

}  // namespace gossamer
