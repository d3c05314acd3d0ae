// The way in: a request is checked and built on its caller's thread, then put into the mailbox.
#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "engine/engine_state.h"

namespace gossamer {

namespace {

// splitmix64: neighbouring seeds and request numbers give unrelated keys.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

SchedulerConfig scheduler_config(const EngineConfig& config) {
  return {.num_blocks = config.num_blocks,
          .block_size = config.block_size,
          .max_num_seqs = config.max_num_seqs,
          .max_num_batched_tokens = config.max_num_batched_tokens};
}

void require_prompt(const std::vector<std::int32_t>& prompt, std::int64_t vocab_size) {
  require(!prompt.empty(), "a prompt must have at least 1 token");
  for (const std::int32_t token : prompt) {
    if (token >= 0 && token < vocab_size) continue;
    throw InvalidArgument("token ids must be between 0 and " + std::to_string(vocab_size - 1) + ", not " + std::to_string(token));
  }
}

std::int64_t resolve_max_tokens(const EngineConfig& config, std::int64_t num_prompt, const SamplingParams& params) {
  const std::int64_t room = config.max_model_len - num_prompt;
  if (!params.max_tokens && room < 1) throw ContextLengthError(num_prompt, 1, config.max_model_len);
  if (params.max_tokens && room < *params.max_tokens) throw ContextLengthError(num_prompt, *params.max_tokens, config.max_model_len);
  const std::int64_t max_tokens = params.max_tokens.value_or(std::min(room, config.num_blocks * config.block_size + 1 - num_prompt));
  Scheduler::require_fits(scheduler_config(config), num_prompt, max_tokens);
  return max_tokens;
}

std::size_t entries_per_token(const std::optional<std::int64_t>& asked_for) {
  return asked_for ? static_cast<std::size_t>(*asked_for) + 1 : 0;
}

}  // namespace

Engine::Request::Request(const SequenceSpec& spec)
    : samples(static_cast<std::size_t>(spec.params.n)),
      logprobs_per_token(entries_per_token(spec.params.logprobs)),
      prompt_logprobs_per_token(entries_per_token(spec.params.prompt_logprobs)) {
  const auto max_tokens = static_cast<std::size_t>(spec.max_tokens);
  prompt_logprobs.reserve(prompt_logprobs_per_token * (spec.prompt.size() - 1));
  for (Sample& sample : samples) {
    sample.tokens.reserve(max_tokens);
    sample.logprobs.reserve(logprobs_per_token * max_tokens);
  }
}

void Engine::validate(const std::vector<std::int32_t>& prompt, const SamplingParams& params) const {
  params.validate(vocab_size_);
  require_prompt(prompt, vocab_size_);
  resolve_max_tokens(config_, std::ssize(prompt), params);
}

RequestId Engine::submit(const std::vector<std::int32_t>& prompt, const SamplingParams& params) {
  require_usable();
  validate(prompt, params);
  // All that a request ever needs is allocated here, on its caller's thread: running out of memory hurts no one else.
  const SequenceSpec spec{.prompt = prompt,
                          .params = params,
                          .max_tokens = resolve_max_tokens(config_, std::ssize(prompt), params),
                          .seed = 0,
                          .eos_ids = eos_ids_};
  auto request = std::make_shared<Request>(spec);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (std::int64_t i = 0; i < params.n; ++i) sequences.push_back(std::make_unique<Sequence>(make_sequence(spec, 0, i)));

  const Lock lock(mutex_);
  require_usable_locked();
  if (num_unfinished_ >= config_.max_num_seqs + config_.max_queue) {
    throw QueueFullError(std::to_string(num_unfinished_) +
                         " requests are in flight, as many as max_num_seqs and max_queue allow; try again when some have finished, " +
                         "or raise max_queue");
  }
  const std::uint64_t seed = params.seed.value_or(mix(config_.seed ^ mix(next_request_)));
  for (std::unique_ptr<Sequence>& sequence : sequences) sequence->row.seed = seed;
  return enqueue(std::move(request), std::move(sequences));
}

// Numbers the sequences and hands them over; all or nothing.
RequestId Engine::enqueue(std::shared_ptr<Request> request, std::vector<std::unique_ptr<Sequence>> sequences) {
  const SequenceId first = next_sequence_;
  inbox_.reserve(inbox_.size() + sequences.size());
  try {
    for (std::size_t i = 0; i < sequences.size(); ++i) routes_.emplace(first + i, Route{request, static_cast<std::int64_t>(i)});
    requests_.emplace(next_request_, request);
  } catch (...) {
    for (std::size_t i = 0; i < sequences.size(); ++i) routes_.erase(first + i);
    throw;
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    sequences[i]->id = request->samples[i].sequence = first + i;
    inbox_.push_back(std::move(sequences[i]));
  }
  next_sequence_ += sequences.size();
  ++num_unfinished_;
  work_.notify_one();
  return next_request_++;
}

}  // namespace gossamer
