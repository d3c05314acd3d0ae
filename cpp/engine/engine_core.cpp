#include "engine/engine_core.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

#include "core/error.h"

namespace gossamer {

namespace {

// Other ranks see only the tokens that rank 0 sends them.
EngineConfig validated(EngineConfig config) {
  config.runs_ahead = config.runs_ahead && config.group == nullptr;
  return config;
}

}  // namespace

ExecutorConfig executor_config(const EngineConfig& config) {
  return {.max_num_seqs = config.max_num_seqs,
          .max_num_batched_tokens = config.max_num_batched_tokens,
          .max_model_len = config.max_model_len,
          .num_blocks = config.num_blocks,
          .block_size = config.block_size,
          .enforce_eager = config.enforce_eager,
          .runs_ahead = config.runs_ahead,
          .heads_in_step = config.heads_in_step,
          .group = config.group};
}

EngineCore::EngineCore(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config)
    : config_(validated(config)),
      scheduler_({.num_blocks = config.num_blocks,
                  .block_size = config.block_size,
                  .max_num_seqs = config.max_num_seqs,
                  .max_num_batched_tokens = config.max_num_batched_tokens}),
      executor_(ops, comm, model, executor_config(config_)),
      sampler_(ops, executor_.max_logit_rows()) {
  const auto max_seqs = static_cast<std::size_t>(config.max_num_seqs);
  const auto max_tokens = static_cast<std::size_t>(config.max_num_batched_tokens);
  sequences_.reserve(2 * max_seqs);
  parts_.reserve(max_seqs);
  stopped_.reserve(max_seqs);
  for (Step& step : steps_) {
    step.shares.reserve(max_seqs);
    step.rows.reserve(max_tokens);  // no token has more than one row
    step.events.ends.reserve(max_seqs);
    step.events.tokens.reserve(max_tokens);
    step.events.logprobs.reserve(max_tokens);
  }
}

void EngineCore::add(std::unique_ptr<Sequence> sequence) {
  const SequenceId id = sequence->id;
  const std::int64_t num_prompt = sequence->num_prompt;
  const std::int64_t max_tokens = sequence->max_tokens;
  const bool has_penalties = sequence->has_penalties;
  sampler_.reserve(*sequence, config_.max_num_seqs);
  sequences_.emplace(id, std::move(sequence));
  num_penalized_ += has_penalties ? 1 : 0;
  try {
    scheduler_.add(id, num_prompt, max_tokens);
  } catch (...) {
    forget(id);
    throw;
  }
}

void EngineCore::forget(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  num_penalized_ -= found->second->has_penalties ? 1 : 0;
  sequences_.erase(found);
}

// A step that runs still may write the blocks that are given back here; whatever takes them next runs after it.
void EngineCore::abort(SequenceId id) {
  scheduler_.abort(id);
  forget(id);
}

void EngineCore::abort_all() {
  for (const auto& [id, sequence] : sequences_) scheduler_.abort(id);
  sequences_.clear();
  num_penalized_ = 0;
  if (std::exchange(is_scheduling_, false)) scheduler_.commit();
  for (; num_open_ > 0; --num_open_, oldest_ ^= 1) {
    Step& step = steps_[oldest_];
    step.events.tokens.clear();
    step.events.logprobs.clear();
    if (std::exchange(step.is_drawing, false)) sampler_.finish(step.rows, oldest_, step.events.tokens, step.events.logprobs);
  }
}

const StepEvents& EngineCore::step() {
  const RankGroup::StepWatch watch(config_.limits_steps ? config_.group : nullptr);
  if (num_open_ == 0) begin(oldest_);
  if (may_run_ahead()) begin(oldest_ ^ 1);
  return finish(oldest_);
}

// The scheduler goes on at once, as if no token ended a sequence: one that does is aborted when it is seen, and what the next step draws
// for it is dropped.
void EngineCore::begin(std::size_t slot) {
  Step& step = steps_[slot];
  step.events.tokens.clear();
  step.events.logprobs.clear();
  step.events.ends.clear();
  step.is_drawing = false;
  const Schedule& plan = scheduler_.schedule();
  is_scheduling_ = true;
  forward(plan, step);
  request_rows(plan, step);
  if (config_.runs_ahead && std::ssize(step.rows) <= executor_.max_logit_rows()) {
    sampler_.begin(executor_, step.rows, slot);
    step.is_drawing = true;
  } else {
    sampler_.run(executor_, step.rows, step.events.tokens, step.events.logprobs);
  }
  is_scheduling_ = false;
  for (const SequenceId id : scheduler_.commit()) {
    std::find_if(step.shares.begin(), step.shares.end(), [id](const Share& share) { return share.id == id; })->is_over = true;
  }
  ++num_open_;
}

void EngineCore::forward(const Schedule& plan, Step& step) {
  ++num_steps_;
  step.events.num_prompt_tokens = 0;
  step.events.num_decode_tokens = 0;
  step.shares.clear();
  parts_.clear();
  for (const Chunk& chunk : plan.chunks) {
    const Sequence& sequence = this->sequence(chunk.id);
    const std::int64_t end = chunk.begin + chunk.count;
    const std::int64_t known_end = std::min(end, sequence.num_tokens());
    check(end - known_end <= (num_open_ > 0 ? 1 : 0), "a step takes a token that has not been drawn");
    parts_.push_back(
        {.begin = chunk.begin,
         .tokens =
             std::span(sequence.tokens).subspan(static_cast<std::size_t>(chunk.begin), static_cast<std::size_t>(known_end - chunk.begin)),
         .blocks = scheduler_.blocks().table(chunk.id),
         .last_row = end > known_end ? sequence.drawn_row : -1});
    step.shares.push_back({chunk.id});
    const bool is_decode = chunk.count == 1 && chunk.begin >= sequence.num_prompt;
    (is_decode ? step.events.num_decode_tokens : step.events.num_prompt_tokens) += chunk.count;
  }
  if (!parts_.empty()) executor_.forward(parts_);
}

// The token at position p of a chunk predicts the one at p + 1: a prompt token to be scored or, from the last known token, a new one.
void EngineCore::request_rows(const Schedule& plan, Step& step) {
  step.rows.clear();
  std::int64_t first_row = 0;
  for (const Chunk& chunk : plan.chunks) {
    Sequence& sequence = this->sequence(chunk.id);
    const std::int64_t end = chunk.begin + chunk.count;
    if (sequence.prompt_logprobs >= 0) {
      const std::int64_t scored_end = std::min(end + 1, sequence.num_prompt);
      for (std::int64_t p = std::max(chunk.begin + 1, sequence.next_scored); p < scored_end; ++p) {
        step.rows.push_back({&sequence, chunk.id, true, static_cast<std::int32_t>(first_row + p - 1 - chunk.begin), p});
        sequence.next_scored = p + 1;
      }
    }
    if (chunk.samples) {
      sequence.drawn_row = static_cast<std::int32_t>(step.rows.size());
      step.rows.push_back({&sequence, chunk.id, false, static_cast<std::int32_t>(first_row + chunk.count - 1), end});
    }
    first_row += chunk.count;
  }
}

// Penalties count the tokens before, and a draw that is finished has left none on the device.
bool EngineCore::may_run_ahead() const {
  return config_.runs_ahead && steps_[oldest_].is_drawing && num_open_ == 1 && num_penalized_ == 0 && scheduler_.has_work();
}

const StepEvents& EngineCore::finish(std::size_t slot) {
  Step& step = steps_[slot];
  if (std::exchange(step.is_drawing, false)) sampler_.finish(step.rows, slot, step.events.tokens, step.events.logprobs);
  oldest_ ^= 1;
  --num_open_;
  stopped_.clear();
  accept_tokens(step);
  for (const Share& share : step.shares) {
    const auto found = sequences_.find(share.id);
    if (found == sequences_.end()) continue;  // failed, or ended before this step was
    const bool is_stopped = std::find(stopped_.begin(), stopped_.end(), share.id) != stopped_.end();
    if (!is_stopped && !share.is_over) continue;
    EndEvent end{.sequence = share.id, .reason = is_stopped ? FinishReason::stop : FinishReason::length, .stop_token = {}, .error = {}};
    if (is_stopped) end.stop_token = found->second->tokens.back();
    step.events.ends.push_back(std::move(end));
    abort(share.id);
  }
  if (config_.check_invariants) check_invariants();
  assert((check_invariants(), true));
  return step.events;
}

// Leaves the events of sequences that are still there.
void EngineCore::accept_tokens(Step& step) {
  std::vector<TokenEvent>& tokens = step.events.tokens;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < step.rows.size(); ++i) {
    const TokenEvent event = tokens[i];
    const auto found = sequences_.find(event.sequence);
    if (found == sequences_.end()) continue;  // failed at an earlier row, or ended while the step ran
    tokens[kept++] = event;
    if (event.token < 0) {
      fail(event.sequence, step.rows[i].position, step);
    } else if (!event.is_prompt) {
      Sequence& sequence = *found->second;
      sequence.append(event.token);
      if (sequence.num_output() >= sequence.min_tokens && sequence.stops_at(event.token)) stopped_.push_back(event.sequence);
    }
  }
  tokens.resize(kept);
}

void EngineCore::fail(SequenceId id, std::int64_t position, Step& step) {
  const std::string message = "the logits of token " + std::to_string(position) + " are not finite (NaN or infinity) in step " +
                              std::to_string(num_steps_ - static_cast<std::int64_t>(num_open_)) +
                              ": the weights are damaged or the activations overflow; check the conversion, or try dtype='float32'";
  EndEvent end{.sequence = id, .reason = FinishReason::none, .stop_token = {}, .error = std::make_exception_ptr(NumericsError(message))};
  step.events.ends.push_back(std::move(end));
  abort(id);
}

void EngineCore::check_invariants() const {
  scheduler_.check_invariants();
  std::int64_t num_over = 0;  // out of tokens, in a step that is not finished
  for (std::size_t i = 0; i < num_open_; ++i) {
    for (const Share& share : steps_[oldest_ ^ i].shares) num_over += share.is_over && sequences_.contains(share.id) ? 1 : 0;
  }
  check(std::ssize(sequences_) == scheduler_.num_running() + scheduler_.num_waiting() + num_over,
        "the engine and the scheduler disagree on what is live");
}

}  // namespace gossamer
