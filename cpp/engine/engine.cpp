// The callers' half of Engine.
#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "engine/engine_state.h"

namespace gossamer {

namespace {

constexpr std::chrono::milliseconds kPollInterval{50};

std::vector<TokenLogprob> logprobs_of_token(const std::vector<TokenLogprob>& flat, std::size_t token, std::size_t per_token) {
  const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(token * per_token);
  std::vector<TokenLogprob> result(begin, begin + static_cast<std::ptrdiff_t>(per_token));
  std::erase_if(result, [](const TokenLogprob& entry) { return entry.token < 0; });  // the vocabulary was smaller than asked for
  return result;
}

}  // namespace

bool Engine::Request::is_over() const {
  return error != nullptr || std::all_of(samples.begin(), samples.end(), [](const Sample& s) { return s.is_over(); });
}

Engine::Engine(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config)
    : config_(config),
      vocab_size_(model.config().vocab_size),
      eos_ids_(model.config().eos_token_ids),
      owner_pid_(::getpid()),
      core_(std::make_unique<EngineCore>(ops, comm, model, config)) {
  require(config.max_model_len >= 1, "max_model_len must be at least 1, not " + std::to_string(config.max_model_len));
  require(config.max_queue >= 0, "max_queue must be at least 0, not " + std::to_string(config.max_queue));
  update_stats();
  thread_ = std::thread([this] { loop(); });
}

Engine::~Engine() {
  if (is_foreign_process()) {
    thread_.detach();  // the thread stayed in the parent
    return;
  }
  close();
}

bool Engine::is_foreign_process() const { return ::getpid() != owner_pid_; }

void Engine::require_usable() const {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  const Lock lock(mutex_);
  require_usable_locked();
}

void Engine::require_usable_locked() const {
  require(!closing_, "runtime is closed");
  if (!death_.empty()) throw EngineDeadError("the engine has stopped and must be made again: " + death_);
  if (config_.group != nullptr) config_.group->require_alive();
}

std::shared_ptr<Engine::Request> Engine::find(RequestId id) const {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : found->second;
}

std::vector<SampleDelta> Engine::wait(RequestId id, std::chrono::milliseconds timeout) {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  Lock lock(mutex_);
  require(!closing_, "runtime is closed");
  const std::shared_ptr<Request> request = find(id);
  require(request != nullptr, "there is no request " + std::to_string(id) + ": it was released or never submitted");
  request->changed.wait_for(lock, timeout, [&] {
    return request->is_released || request->is_over() ||
           std::any_of(request->samples.begin(), request->samples.end(), [](const Sample& s) { return s.has_news(); });
  });
  if (request->error) {
    request->is_error_seen = true;
    std::rethrow_exception(request->error);
  }
  return drain(*request);
}

std::vector<SampleDelta> Engine::drain(Request& request) {
  std::vector<SampleDelta> deltas;
  for (std::size_t i = 0; i < request.samples.size(); ++i) {
    Sample& sample = request.samples[i];
    if (!sample.has_news()) continue;
    SampleDelta delta;
    delta.sample = static_cast<std::int64_t>(i);
    delta.tokens.assign(sample.tokens.begin() + static_cast<std::ptrdiff_t>(sample.num_drained), sample.tokens.end());
    if (request.logprobs_per_token > 0) {
      for (std::size_t t = sample.num_drained; t < sample.tokens.size(); ++t) {
        delta.logprobs.push_back(logprobs_of_token(sample.logprobs, t, request.logprobs_per_token));
      }
    }
    delta.finish_reason = sample.reason;
    delta.stop_token = sample.stop_token;
    deltas.push_back(std::move(delta));
  }
  // Only now: had anything thrown above, nothing would be lost.
  for (Sample& sample : request.samples) {
    sample.num_drained = sample.tokens.size();
    sample.is_end_drained = sample.is_over();
  }
  return deltas;
}

bool Engine::finished(RequestId id) const {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  const Lock lock(mutex_);
  const std::shared_ptr<Request> request = find(id);
  if (!request) return true;
  if (request->error) return request->is_error_seen;
  return request->is_over() && std::none_of(request->samples.begin(), request->samples.end(), [](const Sample& s) { return s.has_news(); });
}

std::vector<std::vector<TokenLogprob>> Engine::prompt_logprobs(RequestId id) const {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  const Lock lock(mutex_);
  const std::shared_ptr<Request> request = find(id);
  require(request != nullptr, "there is no request " + std::to_string(id) + ": it was released or never submitted");
  const std::size_t per_token = request->prompt_logprobs_per_token;
  if (per_token == 0) return {};
  std::vector<std::vector<TokenLogprob>> result(1);  // the first token is not predicted
  for (std::size_t t = 0; t < request->prompt_logprobs.size() / per_token; ++t) {
    result.push_back(logprobs_of_token(request->prompt_logprobs, t, per_token));
  }
  return result;
}

void Engine::finish_sample(RequestId id, std::int64_t sample, FinishReason reason) {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  require(reason != FinishReason::none, "finish_sample needs a reason: stop, length or abort");
  const Lock lock(mutex_);
  const std::shared_ptr<Request> request = find(id);
  if (!request) return;
  require(sample >= 0 && sample < std::ssize(request->samples),
          "sample must be between 0 and " + std::to_string(std::ssize(request->samples) - 1) + ", not " + std::to_string(sample));
  end_sample(*request, sample, reason);
  count_if_over(*request);
  request->changed.notify_all();
}

// Marks the sample first: from here on its tokens are dropped, whatever the engine thread is doing.
void Engine::end_sample(Request& request, std::int64_t index, FinishReason reason) {
  Sample& sample = request.samples[static_cast<std::size_t>(index)];
  if (sample.is_over() || request.error) return;
  sample.reason = reason;
  sample.tokens.resize(sample.num_drained);
  sample.logprobs.resize(sample.num_drained * request.logprobs_per_token);
  routes_.erase(sample.sequence);
  aborts_.push_back(sample.sequence);
  work_.notify_one();
}

void Engine::end_request(Request& request, FinishReason reason) {
  for (std::int64_t i = 0; i < std::ssize(request.samples); ++i) end_sample(request, i, reason);
  count_if_over(request);
  request.changed.notify_all();
}

void Engine::count_if_over(Request& request) {
  if (request.is_counted || !request.is_over()) return;
  request.is_counted = true;
  --num_unfinished_;
  const bool is_aborted =
      std::any_of(request.samples.begin(), request.samples.end(), [](const Sample& s) { return s.reason == FinishReason::abort; });
  ++(request.error ? stats_.requests_failed : is_aborted ? stats_.requests_aborted : stats_.requests_finished);
}

void Engine::abort(RequestId id) {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  const Lock lock(mutex_);
  if (const std::shared_ptr<Request> request = find(id)) end_request(*request, FinishReason::abort);
}

void Engine::release(RequestId id) {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  const Lock lock(mutex_);
  const std::shared_ptr<Request> request = find(id);
  if (!request) return;
  request->is_released = true;
  end_request(*request, FinishReason::abort);
  requests_.erase(id);
}

Calibration Engine::calibrate(const std::vector<std::vector<std::int32_t>>& sequences, const std::function<void(std::int64_t done)>& poll) {
  require_usable();
  require(config_.group == nullptr, "calibrate needs the whole model in one process; run it without mpirun");
  SamplingParams prompt_only;
  prompt_only.max_tokens = 0;
  Job job;
  Calibration result;
  for (const std::vector<std::int32_t>& sequence : sequences) {
    validate(sequence, prompt_only);
    result.num_tokens += std::ssize(sequence);
  }
  job.sequences = sequences;

  Lock lock(mutex_);
  std::exception_ptr poll_error;
  const auto poll_unlocked = [&] {
    if (!poll || poll_error) return;
    const std::int64_t done = job.num_done;
    lock.unlock();
    try {
      poll(done);
    } catch (...) {
      poll_error = std::current_exception();
    }
    lock.lock();
    job.is_cancelled = poll_error != nullptr;
  };
  while (!job_done_.wait_for(lock, kPollInterval, [&] { return job_ == nullptr; })) {  // another calibration runs
    poll_unlocked();
    if (poll_error) std::rethrow_exception(poll_error);
  }
  require_usable_locked();
  job.first_id = next_sequence_;
  next_sequence_ += sequences.size();
  job_ = &job;
  work_.notify_one();
  while (!job_done_.wait_for(lock, kPollInterval, [&] { return job.is_finished; })) poll_unlocked();
  if (poll_error) std::rethrow_exception(poll_error);
  if (job.error) std::rethrow_exception(job.error);
  lock.unlock();
  if (poll) poll(job.num_done);
  result.sum_squares = job.observer.take();
  return result;
}

EngineStats Engine::stats() const {
  require_usable();
  const Lock lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting += std::ssize(inbox_);
  return stats;
}

void Engine::close() {
  if (is_foreign_process()) throw Error("engine created in another process; use spawn");
  const std::lock_guard<std::mutex> closing(close_mutex_);
  {
    const Lock lock(mutex_);
    closing_ = true;
    for (auto& [id, request] : requests_) end_request(*request, FinishReason::abort);
    work_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  core_.reset();
}

}  // namespace gossamer
