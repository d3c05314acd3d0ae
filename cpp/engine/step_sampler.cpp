#include "engine/step_sampler.h"

#include <algorithm>
#include <limits>

namespace gossamer {

namespace {

constexpr std::int32_t kNoToken = std::numeric_limits<std::int32_t>::max();

}  // namespace

StepSampler::StepSampler(Ops& ops, std::int64_t max_rows) : ops_(ops) {
  const auto rows = static_cast<std::size_t>(max_rows);
  row_indices_.reserve(rows);
  rows_.reserve(rows);
  tokens_.resize(rows);
  own_logprobs_.resize(rows);
  ranks_.resize(rows);
  top_tokens_.resize(rows * static_cast<std::size_t>(kMaxLogprobs));
  top_logprobs_.resize(rows * static_cast<std::size_t>(kMaxLogprobs));
}

void StepSampler::reserve(const Sequence& sequence, std::int64_t count) {
  const std::size_t adjustments = sequence.counts.capacity() + sequence.biases.size() + sequence.stop_ids.size();
  adjustments_.reserve(adjustments * static_cast<std::size_t>(count));
}

void StepSampler::run(Executor& executor, std::span<const RowRequest> requests, std::vector<TokenEvent>& events,
                      std::vector<TokenLogprob>& logprobs) {
  const auto max_rows = static_cast<std::size_t>(executor.max_logit_rows());
  for (std::size_t begin = 0; begin < requests.size(); begin += max_rows) {
    const std::span<const RowRequest> part = requests.subspan(begin, std::min(max_rows, requests.size() - begin));
    prepare(part);
    const std::size_t num_top = part.size() * static_cast<std::size_t>(max_logprobs_);
    const SampleResult result{.tokens = std::span(tokens_).first(part.size()),
                              .logprobs = std::span(own_logprobs_).first(part.size()),
                              .ranks = std::span(ranks_).first(part.size()),
                              .top_tokens = std::span(top_tokens_).first(num_top),
                              .top_logprobs = std::span(top_logprobs_).first(num_top),
                              .max_logprobs = max_logprobs_};
    ops_.sample(executor.logits(row_indices_), {.rows = rows_, .adjustments = adjustments_}, result);
    report(part, events, logprobs);
  }
}

void StepSampler::prepare(std::span<const RowRequest> requests) {
  row_indices_.clear();
  rows_.clear();
  adjustments_.clear();
  max_logprobs_ = 0;
  for (const RowRequest& request : requests) {
    const Sequence& sequence = *request.sequence;
    SampleRow row = sequence.row;
    row.position = static_cast<std::uint32_t>(request.position);
    if (request.position < sequence.num_prompt) {
      row.target = sequence.tokens[static_cast<std::size_t>(request.position)];
      row.num_logprobs = sequence.prompt_logprobs;
    } else {
      add_adjustments(static_cast<std::int32_t>(rows_.size()), sequence);
    }
    max_logprobs_ = std::max(max_logprobs_, row.num_logprobs);
    row_indices_.push_back(request.row);
    rows_.push_back(row);
  }
}

// Merges three lists that are sorted by token: counts, biases and, until min_tokens were drawn, the tokens that would end the sequence.
void StepSampler::add_adjustments(std::int32_t row, const Sequence& sequence) {
  const std::span<const std::int32_t> all_stops = sequence.stop_ids;
  const std::span<const std::int32_t> bans = sequence.num_output() < sequence.min_tokens ? all_stops : all_stops.first(0);
  std::size_t c = 0;
  std::size_t b = 0;
  std::size_t s = 0;
  const auto next = [&] {
    std::int32_t token = kNoToken;
    if (c < sequence.counts.size()) token = std::min(token, sequence.counts[c].token);
    if (b < sequence.biases.size()) token = std::min(token, sequence.biases[b].token);
    if (s < bans.size()) token = std::min(token, bans[s]);
    return token;
  };
  for (std::int32_t token = next(); token != kNoToken; token = next()) {
    TokenAdjustment adjustment{.row = row, .token = token, .output_count = 0, .seen = false, .bias = 0.0F};
    if (c < sequence.counts.size() && sequence.counts[c].token == token) {
      adjustment.output_count = sequence.counts[c++].output_count;
      adjustment.seen = true;
    }
    if (b < sequence.biases.size() && sequence.biases[b].token == token) adjustment.bias = sequence.biases[b++].bias;
    if (s < bans.size() && bans[s] == token) {
      adjustment.bias = -std::numeric_limits<float>::infinity();
      ++s;
    }
    adjustments_.push_back(adjustment);
  }
}

void StepSampler::report(std::span<const RowRequest> requests, std::vector<TokenEvent>& events, std::vector<TokenLogprob>& logprobs) const {
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const RowRequest& request = requests[r];
    const std::int32_t num_top = rows_[r].num_logprobs;
    events.push_back({.sequence = request.sequence->id,
                      .is_prompt = request.position < request.sequence->num_prompt,
                      .token = tokens_[r],
                      .first_logprob = logprobs.size(),
                      .num_logprobs = num_top + 1});
    if (num_top < 0) continue;
    logprobs.push_back({tokens_[r], own_logprobs_[r], ranks_[r]});
    const std::size_t first = r * static_cast<std::size_t>(max_logprobs_);
    for (std::int32_t j = 0; j < num_top; ++j) {
      const std::size_t i = first + static_cast<std::size_t>(j);
      logprobs.push_back({top_tokens_[i], top_logprobs_[i], j + 1});
    }
  }
}

}  // namespace gossamer
