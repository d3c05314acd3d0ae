#include "engine/scheduler.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace gossamer {

namespace {

const SchedulerConfig& validated(const SchedulerConfig& config) {
  require(config.num_blocks >= 1, "num_blocks must be at least 1, not " + std::to_string(config.num_blocks));
  require(config.block_size >= 1, "block_size must be at least 1, not " + std::to_string(config.block_size));
  require(config.max_num_seqs >= 1, "max_num_seqs must be at least 1, not " + std::to_string(config.max_num_seqs));
  require(config.max_num_batched_tokens >= config.max_num_seqs, "max_num_batched_tokens must be at least max_num_seqs (" +
                                                                    std::to_string(config.max_num_seqs) + "), not " +
                                                                    std::to_string(config.max_num_batched_tokens));
  return config;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config) : config_(validated(config)), blocks_(config.num_blocks, config.block_size) {
  const auto max_seqs = static_cast<std::size_t>(config_.max_num_seqs);
  plan_.chunks.reserve(max_seqs);
  plan_.preempted.reserve(max_seqs);
  finished_.reserve(max_seqs);
}

void Scheduler::require_fits(const SchedulerConfig& config, std::int64_t prompt_len, std::int64_t max_tokens) {
  require(prompt_len >= 1, "a prompt must have at least 1 token");
  require(max_tokens >= 0, "max_tokens must be at least 0, not " + std::to_string(max_tokens));
  // The last token drawn is never an input, so it needs no place in the cache. Compared without adding: max_tokens may be huge.
  const std::int64_t capacity = config.num_blocks * config.block_size;
  require(prompt_len <= capacity && max_tokens - 1 <= capacity - prompt_len,
          "a prompt of " + std::to_string(prompt_len) + " and " + std::to_string(max_tokens) +
              " new tokens can never fit the KV cache of " + std::to_string(capacity) +
              " tokens: shorten the prompt, lower max_tokens or raise kv_cache_memory");
}

void Scheduler::add(SequenceId id, std::int64_t prompt_len, std::int64_t max_tokens) {
  require(!any_added_ || id > newest_, "sequence ids must increase: " + std::to_string(id) + " came after " + std::to_string(newest_));
  require_fits(config_, prompt_len, max_tokens);
  sequences_.push_back({id, prompt_len, max_tokens, prompt_len, 0, 0});
  newest_ = id;
  any_added_ = true;
}

const Schedule& Scheduler::schedule() {
  check(!step_open_, "schedule() was called twice without commit()");
  plan_.chunks.clear();
  plan_.preempted.clear();
  plan_.num_tokens = 0;
  schedule_decodes();
  schedule_prompts();
  admit();
  step_open_ = true;
  return plan_;
}

// One token for each running sequence that is past its prompt. Only here can a running sequence need a block it does not have.
void Scheduler::schedule_decodes() {
  for (std::int64_t i = 0; i < num_running_; ++i) {
    Entry& entry = sequences_[static_cast<std::size_t>(i)];
    if (entry.uncomputed() != 1) continue;
    bool has_room = blocks_.reserve(entry.id, entry.num_tokens);
    while (!has_room && num_running_ > i) {
      preempt_youngest();
      has_room = num_running_ > i && blocks_.reserve(entry.id, entry.num_tokens);
    }
    if (!has_room) break;  // it was the youngest itself
    entry.num_reserved = entry.num_tokens;
    push_chunk(entry);
  }
}

void Scheduler::schedule_prompts() {
  for (std::int64_t i = 0; i < num_running_ && plan_.num_tokens < config_.max_num_batched_tokens; ++i) {
    const Entry& entry = sequences_[static_cast<std::size_t>(i)];
    if (entry.uncomputed() > 1) push_chunk(entry);
  }
}

// A sequence is admitted with blocks for all its known tokens, and only when every running one could still grow by a block: otherwise
// the next steps would throw it out again.
void Scheduler::admit() {
  while (num_waiting() > 0 && num_running_ < config_.max_num_seqs && plan_.num_tokens < config_.max_num_batched_tokens) {
    Entry& entry = sequences_[static_cast<std::size_t>(num_running_)];
    if (blocks_.blocks_for(entry.num_tokens) + num_running_ > blocks_.num_free()) break;
    check(blocks_.reserve(entry.id, entry.num_tokens), "the block manager refused blocks that it counts as free");
    entry.num_reserved = entry.num_tokens;
    ++num_running_;
    push_chunk(entry);
  }
}

void Scheduler::push_chunk(const Entry& entry) {
  const std::int64_t count = std::min(entry.uncomputed(), config_.max_num_batched_tokens - plan_.num_tokens);
  const bool is_last = count == entry.uncomputed();
  plan_.chunks.push_back({entry.id, entry.num_computed, count, is_last && entry.max_tokens > 0});
  plan_.num_tokens += count;
}

void Scheduler::preempt_youngest() {
  Entry& entry = sequences_[static_cast<std::size_t>(num_running_ - 1)];
  blocks_.release(entry.id);
  entry.num_computed = 0;
  entry.num_reserved = 0;
  --num_running_;
  ++num_preemptions_;
  plan_.preempted.push_back(entry.id);
}

const std::vector<SequenceId>& Scheduler::commit(std::span<const SequenceId> stopped) {
  check(step_open_, "commit() was called without schedule()");
  step_open_ = false;
  finished_.clear();
  for (const Chunk& chunk : plan_.chunks) {
    const auto entry = find(chunk.id);
    if (entry == sequences_.end()) continue;  // aborted meanwhile
    entry->num_computed += chunk.count;
    if (chunk.samples) ++entry->num_tokens;
    const bool is_out_of_tokens = entry->num_computed >= entry->prompt_len && entry->num_tokens - entry->prompt_len == entry->max_tokens;
    const bool is_stopped = chunk.samples && std::find(stopped.begin(), stopped.end(), chunk.id) != stopped.end();
    if (is_out_of_tokens || is_stopped) {
      finished_.push_back(chunk.id);
      erase(entry);
    }
  }
  return finished_;
}

void Scheduler::abort(SequenceId id) {
  const auto entry = find(id);
  if (entry != sequences_.end()) erase(entry);
}

std::vector<Scheduler::Entry>::iterator Scheduler::find(SequenceId id) {
  const auto entry = std::lower_bound(sequences_.begin(), sequences_.end(), id, [](const Entry& e, SequenceId key) { return e.id < key; });
  return entry != sequences_.end() && entry->id == id ? entry : sequences_.end();
}

void Scheduler::erase(std::vector<Entry>::iterator entry) {
  if (entry - sequences_.begin() < num_running_) --num_running_;
  blocks_.release(entry->id);
  sequences_.erase(entry);
}

void Scheduler::check_invariants() const {
  blocks_.check_invariants();
  check(num_running_ >= 0 && num_running_ <= std::min<std::int64_t>(config_.max_num_seqs, std::ssize(sequences_)),
        "the number of running sequences is out of range");
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < std::ssize(sequences_); ++i) {
    const Entry& entry = sequences_[static_cast<std::size_t>(i)];
    check(i == 0 || sequences_[static_cast<std::size_t>(i - 1)].id < entry.id, "sequences are not in order of age");
    check(entry.num_tokens >= entry.prompt_len && entry.num_tokens - entry.prompt_len <= entry.max_tokens,
          "a sequence has more tokens than it may");
    if (i < num_running_) {
      check(
          entry.num_computed <= entry.num_reserved && entry.num_reserved <= entry.num_tokens && entry.num_tokens <= entry.num_reserved + 1,
          "a running sequence's computed, reserved and known tokens do not match");
      const std::int64_t held = std::ssize(blocks_.table(entry.id));
      check(held == blocks_.blocks_for(entry.num_reserved), "a block table does not match its sequence's length");
      used += held;
    } else {
      check(entry.num_computed == 0 && entry.num_reserved == 0, "a waiting sequence holds computed tokens");
    }
  }
  check(used + blocks_.num_free() == blocks_.num_blocks(), "used and free blocks do not add up to all blocks");
}

}  // namespace gossamer
