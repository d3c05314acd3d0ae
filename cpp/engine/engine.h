// Engine: one thread that owns an EngineCore, and the mailbox through which callers reach it. Callers enqueue and wait; all methods
// are thread-safe. Everything a caller sees is guarded by one mutex that the engine thread never holds while it computes.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine_core.h"
#include "engine/results.h"
#include "engine/sampling_params.h"

namespace gossamer {

struct EngineStats {
  std::int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, preemptions = 0;
  std::int64_t requests_finished = 0, requests_aborted = 0, requests_failed = 0;
  std::int64_t waiting = 0, running = 0, free_blocks = 0;  // waiting, running: sequences
  double prefill_seconds = 0, decode_seconds = 0;
};

class Engine {
 public:
  // What it is given is used until close() returns.
  Engine(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // As in runtime.h.
  RequestId submit(const std::vector<std::int32_t>& prompt, const SamplingParams& params);
  void validate(const std::vector<std::int32_t>& prompt, const SamplingParams& params) const;
  std::vector<SampleDelta> wait(RequestId id, std::chrono::milliseconds timeout);
  bool finished(RequestId id) const;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs(RequestId id) const;
  void finish_sample(RequestId id, std::int64_t sample, FinishReason reason);
  void abort(RequestId id);
  void release(RequestId id);
  Calibration calibrate(const std::vector<std::vector<std::int32_t>>& sequences, const std::function<void(std::int64_t done)>& poll);
  EngineStats stats() const;
  void close();
  // Throws if this process is not the one that made the engine, the engine is closed or it is dead.
  void require_usable() const;
  bool is_foreign_process() const;

 private:
  struct Sample;
  struct Request;
  struct Job;
  // Where a sequence's tokens go.
  struct Route {
    std::shared_ptr<Request> request;
    std::int64_t sample = 0;
  };
  using Lock = std::unique_lock<std::mutex>;

  // Callers' side; the lock is held.
  void require_usable_locked() const;
  RequestId enqueue(std::shared_ptr<Request> request, std::vector<std::unique_ptr<Sequence>> sequences);
  std::shared_ptr<Request> find(RequestId id) const;
  void end_sample(Request& request, std::int64_t sample, FinishReason reason);
  void end_request(Request& request, FinishReason reason);
  void count_if_over(Request& request);
  std::vector<SampleDelta> drain(Request& request);

  // The engine thread's side.
  void loop();
  void take_mail();
  void step(Lock& lock);
  void publish(const StepEvents& events);
  void update_stats();
  void run_job(Lock& lock);
  void calibrate_on_engine(Job& job);
  void fail_live_requests(const std::exception_ptr& error);
  void fail_request(Request& request, const std::exception_ptr& error);
  void handle_failure(const std::exception_ptr& failure);
  void die(const std::string& why);

  const EngineConfig config_;
  const std::int64_t vocab_size_;
  const std::vector<std::int64_t> eos_ids_;
  const std::int64_t owner_pid_;
  std::unique_ptr<EngineCore> core_;  // the engine thread's alone; gone after close()

  mutable std::mutex mutex_;  // guards all below
  std::condition_variable work_;
  std::unordered_map<RequestId, std::shared_ptr<Request>> requests_;
  std::unordered_map<SequenceId, Route> routes_;  // live sequences
  std::vector<std::unique_ptr<Sequence>> inbox_;  // by increasing id
  std::vector<SequenceId> aborts_;
  Job* job_ = nullptr;
  std::condition_variable job_done_;
  RequestId next_request_ = 1;
  SequenceId next_sequence_ = 1;
  std::int64_t num_unfinished_ = 0;  // requests
  EngineStats stats_;
  bool closing_ = false;
  std::string death_;  // why the engine is dead; empty while it lives

  std::mutex close_mutex_;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace gossamer
