#include "engine/step_sampler.h"

#include <algorithm>
#include <limits>

namespace gossamer {

namespace {

constexpr std::int32_t kNoToken = std::numeric_limits<std::int32_t>::max();

}  // namespace

StepSampler::Draw::Draw(std::size_t max_rows) {
  rows.reserve(max_rows);
  tokens.resize(max_rows);
  own_logprobs.resize(max_rows);
  ranks.resize(max_rows);
  top_tokens.resize(max_rows * static_cast<std::size_t>(kMaxLogprobs));
  top_logprobs.resize(max_rows * static_cast<std::size_t>(kMaxLogprobs));
}

SampleResult StepSampler::Draw::result() {
  const std::size_t num_top = rows.size() * static_cast<std::size_t>(max_logprobs);
  return {.tokens = std::span(tokens).first(rows.size()),
          .logprobs = std::span(own_logprobs).first(rows.size()),
          .ranks = std::span(ranks).first(rows.size()),
          .top_tokens = std::span(top_tokens).first(num_top),
          .top_logprobs = std::span(top_logprobs).first(num_top),
          .max_logprobs = max_logprobs};
}

StepSampler::StepSampler(Ops& ops, std::int64_t max_rows)
    : ops_(ops), draws_{Draw(static_cast<std::size_t>(max_rows)), Draw(static_cast<std::size_t>(max_rows))} {
  row_indices_.reserve(static_cast<std::size_t>(max_rows));
}

void StepSampler::reserve(const Sequence& sequence, std::int64_t count) {
  const std::size_t adjustments = sequence.counts.capacity() + sequence.biases.size() + sequence.stop_ids.size();
  adjustments_.reserve(adjustments * static_cast<std::size_t>(count));
}

void StepSampler::run(Executor& executor, std::span<const RowRequest> requests, std::vector<TokenEvent>& events,
                      std::vector<TokenLogprob>& logprobs) {
  const auto max_rows = static_cast<std::size_t>(executor.max_logit_rows());
  Draw& draw = draws_[0];
  for (std::size_t begin = 0; begin < requests.size(); begin += max_rows) {
    const std::span<const RowRequest> part = requests.subspan(begin, std::min(max_rows, requests.size() - begin));
    prepare(part, draw);
    ops_.sample(executor.logits(row_indices_), {.rows = draw.rows, .adjustments = adjustments_}, draw.result());
    report(part, draw, events, logprobs);
  }
}

void StepSampler::begin(Executor& executor, std::span<const RowRequest> requests, std::size_t slot) {
  if (requests.empty()) return;
  Draw& draw = draws_[slot];
  prepare(requests, draw);
  ops_.begin_sample(executor.logits(row_indices_), {.rows = draw.rows, .adjustments = adjustments_}, draw.result(),
                    executor.drawn(std::ssize(requests)));
}

void StepSampler::finish(std::span<const RowRequest> requests, std::size_t slot, std::vector<TokenEvent>& events,
                         std::vector<TokenLogprob>& logprobs) {
  if (requests.empty()) return;
  ops_.finish_sample();
  report(requests, draws_[slot], events, logprobs);
}

void StepSampler::prepare(std::span<const RowRequest> requests, Draw& draw) {
  row_indices_.clear();
  draw.rows.clear();
  adjustments_.clear();
  draw.max_logprobs = 0;
  for (const RowRequest& request : requests) {
    const Sequence& sequence = *request.sequence;
    SampleRow row = sequence.row;
    row.position = static_cast<std::uint32_t>(request.position);
    if (request.is_prompt) {
      row.target = sequence.tokens[static_cast<std::size_t>(request.position)];
      row.num_logprobs = sequence.prompt_logprobs;
    } else {
      add_adjustments(static_cast<std::int32_t>(draw.rows.size()), request);
    }
    draw.max_logprobs = std::max(draw.max_logprobs, row.num_logprobs);
    row_indices_.push_back(request.row);
    draw.rows.push_back(row);
  }
}

// Merges three lists that are sorted by token: counts, biases and, until min_tokens were drawn, the tokens that would end the sequence.
void StepSampler::add_adjustments(std::int32_t row, const RowRequest& request) {
  const Sequence& sequence = *request.sequence;
  const std::span<const std::int32_t> all_stops = sequence.stop_ids;
  const std::span<const std::int32_t> bans = request.position - sequence.num_prompt < sequence.min_tokens ? all_stops : all_stops.first(0);
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

void StepSampler::report(std::span<const RowRequest> requests, const Draw& draw, std::vector<TokenEvent>& events,
                         std::vector<TokenLogprob>& logprobs) {
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const std::int32_t num_top = draw.rows[r].num_logprobs;
    events.push_back({.sequence = requests[r].id,
                      .is_prompt = requests[r].is_prompt,
                      .token = draw.tokens[r],
                      .first_logprob = logprobs.size(),
                      .num_logprobs = num_top + 1});
    if (num_top < 0) continue;
    logprobs.push_back({draw.tokens[r], draw.own_logprobs[r], draw.ranks[r]});
    const std::size_t first = r * static_cast<std::size_t>(draw.max_logprobs);
    for (std::int32_t j = 0; j < num_top; ++j) {
      const std::size_t i = first + static_cast<std::size_t>(j);
      logprobs.push_back({draw.top_tokens[i], draw.top_logprobs[i], j + 1});
    }
  }
}

}  // namespace gossamer
