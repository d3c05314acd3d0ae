// Scheduler: which tokens of which sequences run in the next step. Pure policy over integers: no device, no token ids, no clock.
//
// Sequences are kept by age. The running ones are always the oldest ones: admission takes the oldest waiting sequence, preemption takes
// the youngest running one (its blocks are freed and its tokens computed again later). So the oldest sequence advances in every step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/block_manager.h"

namespace gossamer {

struct SchedulerConfig {
  std::int64_t num_blocks = 0;
  std::int64_t block_size = 16;
  std::int64_t max_num_seqs = 64;
  std::int64_t max_num_batched_tokens = 512;  // at least max_num_seqs, so that no running sequence is starved
};

// One sequence's part of a step.
struct Chunk {
  SequenceId id = 0;
  std::int64_t begin = 0;  // position of the first token to compute
  std::int64_t count = 0;
  bool samples = false;  // the chunk ends at the last known token, so the next one is drawn
};

struct Schedule {
  std::vector<Chunk> chunks;  // decodes first, then prompts; each oldest first
  std::vector<SequenceId> preempted;
  std::int64_t num_tokens = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerConfig& config);

  // Throws InvalidArgument when such a sequence could not run even alone in the pool.
  static void require_fits(const SchedulerConfig& config, std::int64_t prompt_len, std::int64_t max_tokens);

  // Ids are ages: each must be larger than all before. max_tokens 0 = compute the prompt only. Throws as require_fits.
  void add(SequenceId id, std::int64_t prompt_len, std::int64_t max_tokens);
  // Plans the next step; the reference stays valid until the next call. Every schedule() is followed by one commit().
  const Schedule& schedule();
  // Takes the step's results in. `stopped`: sequences whose new token ended them. Returns all that are over now, out of tokens or
  // stopped; their blocks are free. The reference stays valid until the next call.
  const std::vector<SequenceId>& commit(std::span<const SequenceId> stopped = {});
  // Forgets a sequence at any time, also between schedule() and commit(). Unknown ids are fine.
  void abort(SequenceId id);

  bool has_work() const { return !sequences_.empty(); }
  std::int64_t num_running() const { return num_running_; }
  std::int64_t num_waiting() const { return static_cast<std::int64_t>(sequences_.size()) - num_running_; }
  std::int64_t num_preemptions() const { return num_preemptions_; }
  const BlockManager& blocks() const { return blocks_; }
  const SchedulerConfig& config() const { return config_; }

  // Throws InternalError when the books do not balance.
  void check_invariants() const;

 private:
  struct Entry {
    SequenceId id;
    std::int64_t prompt_len;
    std::int64_t max_tokens;
    std::int64_t num_tokens;    // known: prompt and output
    std::int64_t num_computed;  // in the KV cache
    std::int64_t num_reserved;  // tokens that its blocks were reserved for
    std::int64_t uncomputed() const { return num_tokens - num_computed; }
  };

  std::vector<Entry>::iterator find(SequenceId id);
  void schedule_decodes();
  void schedule_prompts();
  void admit();
  void push_chunk(const Entry& entry);
  void preempt_youngest();
  void erase(std::vector<Entry>::iterator entry);

  SchedulerConfig config_;
  BlockManager blocks_;
  std::vector<Entry> sequences_;  // oldest first; the first num_running_ are running, the rest wait
  std::int64_t num_running_ = 0;
  std::int64_t num_preemptions_ = 0;
  SequenceId newest_ = 0;
  bool any_added_ = false;
  bool step_open_ = false;  // between schedule() and commit()
  Schedule plan_;
  std::vector<SequenceId> finished_;
};

}  // namespace gossamer
