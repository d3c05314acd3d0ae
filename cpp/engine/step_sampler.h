// StepSampler: asks the device for tokens and log-probabilities of the rows that a step wants.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/executor.h"
#include "engine/results.h"
#include "engine/sequence.h"

namespace gossamer {

// One row of logits that is wanted: the distribution of the token at `position`, given all before it.
struct RowRequest {
  const Sequence* sequence = nullptr;  // there when the draw begins; when it is finished it may have gone
  SequenceId id = 0;
  bool is_prompt = false;
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
  // The same in two halves, for at most executor.max_logit_rows() requests: two draws may be open, one in each slot, and finish in order.
  void begin(Executor& executor, std::span<const RowRequest> requests, std::size_t slot);
  void finish(std::span<const RowRequest> requests, std::size_t slot, std::vector<TokenEvent>& events, std::vector<TokenLogprob>& logprobs);

 private:
  // One draw: what is asked of each row, and what came of it.
  struct Draw {
    std::vector<SampleRow> rows;
    std::int32_t max_logprobs = 0;
    std::vector<std::int32_t> tokens;
    std::vector<float> own_logprobs;
    std::vector<std::int32_t> ranks;
    std::vector<std::int32_t> top_tokens;
    std::vector<float> top_logprobs;

    explicit Draw(std::size_t max_rows);
    SampleResult result();
  };

  void prepare(std::span<const RowRequest> requests, Draw& draw);
  void add_adjustments(std::int32_t row, const RowRequest& request);
  static void report(std::span<const RowRequest> requests, const Draw& draw, std::vector<TokenEvent>& events,
                     std::vector<TokenLogprob>& logprobs);

  Ops& ops_;
  std::vector<std::int32_t> row_indices_;
  std::vector<TokenAdjustment> adjustments_;
  std::array<Draw, 2> draws_;
};

}  // namespace gossamer
