#include "engine/engine_core.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "core/error.h"

namespace gossamer {

ExecutorConfig executor_config(const EngineConfig& config) {
  return {.max_num_seqs = config.max_num_seqs,
          .max_num_batched_tokens = config.max_num_batched_tokens,
          .max_model_len = config.max_model_len,
          .num_blocks = config.num_blocks,
          .block_size = config.block_size,
          .enforce_eager = config.enforce_eager,
          .group = config.group};
}

EngineCore::EngineCore(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config)
    : config_(config),
      scheduler_({.num_blocks = config.num_blocks,
                  .block_size = config.block_size,
                  .max_num_seqs = config.max_num_seqs,
                  .max_num_batched_tokens = config.max_num_batched_tokens}),
      executor_(ops, comm, model, executor_config(config)),
      sampler_(ops, executor_.max_logit_rows()) {
  const auto max_seqs = static_cast<std::size_t>(config.max_num_seqs);
  const auto max_tokens = static_cast<std::size_t>(config.max_num_batched_tokens);
  sequences_.reserve(2 * max_seqs);
  parts_.reserve(max_seqs);
  stopped_.reserve(max_seqs);
  events_.ends.reserve(max_seqs);
  rows_.reserve(max_tokens);  // no token has more than one row
  events_.tokens.reserve(max_tokens);
  events_.logprobs.reserve(max_tokens);
}

void EngineCore::add(std::unique_ptr<Sequence> sequence) {
  const SequenceId id = sequence->id;
  const std::int64_t num_prompt = sequence->num_prompt;
  const std::int64_t max_tokens = sequence->max_tokens;
  sampler_.reserve(*sequence, config_.max_num_seqs);
  sequences_.emplace(id, std::move(sequence));
  try {
    scheduler_.add(id, num_prompt, max_tokens);
  } catch (...) {
    sequences_.erase(id);
    throw;
  }
}

void EngineCore::abort(SequenceId id) {
  scheduler_.abort(id);
  sequences_.erase(id);
}

void EngineCore::abort_all() {
  for (const auto& [id, sequence] : sequences_) scheduler_.abort(id);
  sequences_.clear();
  if (std::exchange(step_open_, false)) scheduler_.commit();
}

const StepEvents& EngineCore::step() {
  const RankGroup::StepWatch watch(config_.limits_steps ? config_.group : nullptr);
  const Schedule& plan = scheduler_.schedule();
  step_open_ = true;
  forward(plan);
  sample(plan);
  commit();
  return events_;
}

void EngineCore::forward(const Schedule& plan) {
  ++num_steps_;
  events_.num_prompt_tokens = 0;
  events_.num_decode_tokens = 0;
  parts_.clear();
  for (const Chunk& chunk : plan.chunks) {
    const std::span<const std::int32_t> tokens = sequence(chunk.id).tokens;
    parts_.push_back({.begin = chunk.begin,
                      .tokens = tokens.subspan(static_cast<std::size_t>(chunk.begin), static_cast<std::size_t>(chunk.count)),
                      .blocks = scheduler_.blocks().table(chunk.id)});
    const bool is_decode = chunk.count == 1 && chunk.begin >= sequence(chunk.id).num_prompt;
    (is_decode ? events_.num_decode_tokens : events_.num_prompt_tokens) += chunk.count;
  }
  if (!parts_.empty()) executor_.forward(parts_);
}

// The token at position p of a chunk predicts the one at p + 1: a prompt token to be scored or, from the last known token, a new one.
void EngineCore::sample(const Schedule& plan) {
  rows_.clear();
  events_.tokens.clear();
  events_.logprobs.clear();
  std::int64_t first_row = 0;
  for (const Chunk& chunk : plan.chunks) {
    Sequence& sequence = this->sequence(chunk.id);
    const std::int64_t end = chunk.begin + chunk.count;
    if (sequence.prompt_logprobs >= 0) {
      const std::int64_t scored_end = std::min(end + 1, sequence.num_prompt);
      for (std::int64_t p = std::max(chunk.begin + 1, sequence.next_scored); p < scored_end; ++p) {
        rows_.push_back({&sequence, static_cast<std::int32_t>(first_row + p - 1 - chunk.begin), p});
        sequence.next_scored = p + 1;
      }
    }
    if (chunk.samples) rows_.push_back({&sequence, static_cast<std::int32_t>(first_row + chunk.count - 1), end});
    first_row += chunk.count;
  }
  sampler_.run(executor_, rows_, events_.tokens, events_.logprobs);
}

void EngineCore::commit() {
  events_.ends.clear();
  stopped_.clear();
  accept_tokens();
  step_open_ = false;
  for (const SequenceId id : scheduler_.commit(stopped_)) {
    const bool is_stopped = std::find(stopped_.begin(), stopped_.end(), id) != stopped_.end();
    EndEvent end{.sequence = id, .reason = is_stopped ? FinishReason::stop : FinishReason::length, .stop_token = {}, .error = {}};
    if (is_stopped) end.stop_token = sequence(id).tokens.back();
    events_.ends.push_back(std::move(end));
    sequences_.erase(id);
  }
  if (config_.check_invariants) check_invariants();
  assert((check_invariants(), true));
}

void EngineCore::accept_tokens() {
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const TokenEvent& event = events_.tokens[i];
    const auto found = sequences_.find(event.sequence);
    if (found == sequences_.end()) continue;  // failed at an earlier row
    if (event.token < 0) {
      fail(event.sequence, rows_[i].position);
    } else if (!event.is_prompt) {
      Sequence& sequence = *found->second;
      sequence.append(event.token);
      if (sequence.num_output() >= sequence.min_tokens && sequence.stops_at(event.token)) stopped_.push_back(event.sequence);
    }
  }
}

void EngineCore::fail(SequenceId id, std::int64_t position) {
  const std::string message = "the logits of token " + std::to_string(position) + " are not finite (NaN or infinity) in step " +
                              std::to_string(num_steps_) +
                              ": the weights are damaged or the activations overflow; check the conversion, or try dtype='float32'";
  EndEvent end{.sequence = id, .reason = FinishReason::none, .stop_token = {}, .error = std::make_exception_ptr(NumericsError(message))};
  events_.ends.push_back(std::move(end));
  abort(id);
}

void EngineCore::check_invariants() const {
  scheduler_.check_invariants();
  check(std::ssize(sequences_) == scheduler_.num_running() + scheduler_.num_waiting(),
        "the engine and the scheduler disagree on what is live");
}

}  // namespace gossamer
