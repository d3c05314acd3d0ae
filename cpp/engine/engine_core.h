// EngineCore: the step itself, without threads. schedule → forward → sample → commit.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/executor.h"
#include "engine/results.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/step_sampler.h"

namespace gossamer {

struct EngineConfig {
  std::int64_t max_model_len = 0;
  std::int64_t max_num_seqs = 64;
  std::int64_t max_num_batched_tokens = 512;
  std::int64_t block_size = 16;
  std::int64_t num_blocks = 0;
  std::int64_t max_queue = 1024;  // requests in flight beyond max_num_seqs
  std::uint64_t seed = 0;
  bool enforce_eager = false;
  bool runs_ahead = false;        // a step begins before the host has seen the tokens of the one before; the same tokens
  bool heads_in_step = false;     // decode steps end with the head of all their rows; the same tokens
  RankGroup* group = nullptr;     // the ranks that share the model; null = this process alone
  bool limits_steps = false;      // to the group's watchdog: on devices, where no step takes that long
  bool check_invariants = false;  // after every step, as debug builds always do
};

// What each rank's Executor is made for.
ExecutorConfig executor_config(const EngineConfig& config);

// A sequence is over. Its blocks are free already.
struct EndEvent {
  SequenceId sequence = 0;
  FinishReason reason = FinishReason::none;
  std::optional<std::int32_t> stop_token;
  std::exception_ptr error;  // of this sequence alone
};

struct StepEvents {
  std::vector<TokenEvent> tokens;  // in order of position within a sequence
  std::vector<TokenLogprob> logprobs;
  std::vector<EndEvent> ends;
  std::int64_t num_prompt_tokens = 0;  // computed: prompts and recomputation after preemption
  std::int64_t num_decode_tokens = 0;
};

class EngineCore {
 public:
  EngineCore(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config);

  // Throws as Scheduler::add; the core is then unchanged.
  void add(std::unique_ptr<Sequence> sequence);
  void abort(SequenceId id);  // unknown ids are fine
  void abort_all();           // also after a step that threw: the next one starts clean

  // Finishes one step, and with runs_ahead begins the next before that. The reference stays valid until the next call. A non-finite row
  // ends its own sequence only; any exception is the engine's.
  const StepEvents& step();

  bool has_work() const { return scheduler_.has_work() || num_open_ > 0; }
  const Scheduler& scheduler() const { return scheduler_; }
  Executor& executor() { return executor_; }
  std::int64_t num_steps() const { return num_steps_; }
  // Throws InternalError.
  void check_invariants() const;

 private:
  // A sequence's share of a step that has begun.
  struct Share {
    SequenceId id = 0;
    bool is_over = false;  // it is out of tokens, and so forgotten by the scheduler
  };
  // A step from its schedule to its events.
  struct Step {
    std::vector<Share> shares;
    std::vector<RowRequest> rows;
    bool is_drawing = false;  // the sampler has to finish it
    StepEvents events;
  };

  void begin(std::size_t slot);
  void forward(const Schedule& plan, Step& step);
  void request_rows(const Schedule& plan, Step& step);
  bool may_run_ahead() const;
  const StepEvents& finish(std::size_t slot);
  void accept_tokens(Step& step);
  void fail(SequenceId id, std::int64_t position, Step& step);
  void forget(SequenceId id);
  Sequence& sequence(SequenceId id) { return *sequences_.at(id); }

  EngineConfig config_;
  Scheduler scheduler_;
  Executor executor_;
  StepSampler sampler_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::int64_t num_penalized_ = 0;  // of them
  std::vector<StepPart> parts_;
  std::vector<SequenceId> stopped_;
  std::array<Step, 2> steps_;
  std::size_t oldest_ = 0;    // the slot of the step to finish next
  std::size_t num_open_ = 0;  // begun and not finished
  std::int64_t num_steps_ = 0;
  bool is_scheduling_ = false;  // the scheduler waits for a commit
};

}  // namespace gossamer
