// The engine thread's half of Engine.
#include <limits>
#include <new>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "engine/engine_state.h"

namespace gossamer {

namespace {

bool is_out_of_memory(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const OutOfMemoryError&) {
    return true;
  } catch (const std::bad_alloc&) {
    return true;
  } catch (...) {
    return false;
  }
}

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

}  // namespace

void Engine::loop() {
  Lock lock(mutex_);
  while (!closing_ && death_.empty()) {
    work_.wait(lock, [&] { return closing_ || job_ != nullptr || !inbox_.empty() || !aborts_.empty() || core_->has_work(); });
    if (closing_) break;
    take_mail();
    if (core_->has_work()) {
      step(lock);
    } else if (job_ != nullptr) {
      run_job(lock);
    }
    update_stats();
  }
  if (job_ != nullptr) {
    job_->error =
        closing_ ? std::make_exception_ptr(InvalidArgument("runtime is closed")) : std::make_exception_ptr(EngineDeadError(death_));
    std::exchange(job_, nullptr)->is_finished = true;
    job_done_.notify_all();
  }
  const std::string why = death_;
  lock.unlock();  // a log sink may call back
  if (!why.empty()) log(LogLevel::error, "the engine has stopped: " + why);
}

void Engine::take_mail() {
  for (const SequenceId id : aborts_) core_->abort(id);
  aborts_.clear();
  const SequenceId end = job_ != nullptr ? job_->first_id : std::numeric_limits<SequenceId>::max();
  std::size_t taken = 0;
  for (; taken < inbox_.size() && inbox_[taken]->id < end; ++taken) {
    const auto route = routes_.find(inbox_[taken]->id);
    if (route == routes_.end()) continue;  // aborted before it began
    const std::shared_ptr<Request> request = route->second.request;
    try {
      core_->add(std::move(inbox_[taken]));
    } catch (...) {
      fail_request(*request, std::current_exception());
    }
  }
  inbox_.erase(inbox_.begin(), inbox_.begin() + static_cast<std::ptrdiff_t>(taken));
}

void Engine::step(Lock& lock) {
  lock.unlock();
  const auto start = std::chrono::steady_clock::now();
  const StepEvents* events = nullptr;
  std::exception_ptr failure;
  try {
    events = &core_->step();
  } catch (...) {
    failure = std::current_exception();
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  lock.lock();
  if (!failure) {
    try {
      publish(*events);
      stats_.prefill_tokens += events->num_prompt_tokens;
      stats_.decode_tokens += events->num_decode_tokens;
      (events->num_prompt_tokens > 0 ? stats_.prefill_seconds : stats_.decode_seconds) += elapsed.count();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  if (failure) handle_failure(failure);
}

void Engine::publish(const StepEvents& events) {
  for (const EndEvent& end : events.ends) {
    const auto route = routes_.find(end.sequence);
    if (!end.error || route == routes_.end()) continue;
    const std::shared_ptr<Request> request = route->second.request;
    fail_request(*request, end.error);
  }
  for (const TokenEvent& event : events.tokens) {
    const auto route = routes_.find(event.sequence);
    if (route == routes_.end()) continue;  // failed, or ended by its caller meanwhile
    Request& request = *route->second.request;
    Sample& sample = request.samples[static_cast<std::size_t>(route->second.sample)];
    const auto first = events.logprobs.begin() + static_cast<std::ptrdiff_t>(event.first_logprob);
    std::vector<TokenLogprob>& logprobs = event.is_prompt ? request.prompt_logprobs : sample.logprobs;
    logprobs.insert(logprobs.end(), first, first + event.num_logprobs);
    if (!event.is_prompt) sample.tokens.push_back(event.token);
    request.changed.notify_all();
  }
  for (const EndEvent& end : events.ends) {
    const auto route = routes_.find(end.sequence);
    if (route == routes_.end()) continue;
    const std::shared_ptr<Request> request = route->second.request;
    Sample& sample = request->samples[static_cast<std::size_t>(route->second.sample)];
    sample.reason = end.reason;
    sample.stop_token = end.stop_token;
    routes_.erase(route);
    count_if_over(*request);
    request->changed.notify_all();
  }
}

void Engine::fail_request(Request& request, const std::exception_ptr& error) {
  if (request.is_over()) return;
  request.error = error;
  for (const Sample& sample : request.samples) {
    if (sample.is_over()) continue;
    routes_.erase(sample.sequence);
    core_->abort(sample.sequence);
  }
  count_if_over(request);
  request.changed.notify_all();
}

// Requests that are still in the mailbox had no part in what went wrong.
void Engine::fail_live_requests(const std::exception_ptr& error) {
  const SequenceId end = inbox_.empty() ? std::numeric_limits<SequenceId>::max() : inbox_.front()->id;
  for (auto& [id, request] : requests_) {
    if (request->samples.front().sequence < end) fail_request(*request, error);
  }
}

// Out of memory is not the engine's end: what was running fails, everything is given back, and the next request starts clean. Not so with
// several ranks, of which the others are in the middle of the step.
void Engine::handle_failure(const std::exception_ptr& failure) {
  std::string why;
  try {
    if (is_out_of_memory(failure) && config_.group == nullptr) {
      fail_live_requests(failure);
      core_->abort_all();
      return;
    }
    why = message_of(failure);
  } catch (const std::exception& e) {
    why = e.what();
  }
  die(why);
}

void Engine::die(const std::string& why) {
  death_ = why.empty() ? "an unknown failure" : why;
  if (config_.group != nullptr) config_.group->fail("rank 0 failed: " + death_);
  inbox_.clear();
  fail_live_requests(std::make_exception_ptr(EngineDeadError("the engine has stopped and must be made again: " + death_)));
}

void Engine::update_stats() {
  const Scheduler& scheduler = core_->scheduler();
  stats_.steps = core_->num_steps();
  stats_.preemptions = scheduler.num_preemptions();
  stats_.waiting = scheduler.num_waiting();
  stats_.running = scheduler.num_running();
  stats_.free_blocks = scheduler.blocks().num_free();
}

void Engine::run_job(Lock& lock) {
  Job& job = *job_;
  lock.unlock();
  std::exception_ptr failure;
  try {
    calibrate_on_engine(job);
  } catch (...) {
    failure = std::current_exception();
  }
  core_->executor().set_observer(nullptr);
  lock.lock();
  if (failure) {
    job.error = failure;
    handle_failure(failure);
  } else if (closing_) {
    job.error = std::make_exception_ptr(InvalidArgument("runtime is closed"));
  }
  job.is_finished = true;
  job_ = nullptr;
  job_done_.notify_all();
}

void Engine::calibrate_on_engine(Job& job) {
  SamplingParams prompt_only;
  prompt_only.max_tokens = 0;
  for (std::size_t i = 0; i < job.sequences.size(); ++i) {
    const SequenceSpec spec{.prompt = job.sequences[i], .params = prompt_only, .max_tokens = 0, .seed = 0, .eos_ids = {}};
    core_->add(std::make_unique<Sequence>(make_sequence(spec, job.first_id + i, 0)));
  }
  core_->executor().set_observer(&job.observer);
  while (core_->has_work()) {
    const std::int64_t num_ends = std::ssize(core_->step().ends);
    const Lock lock(mutex_);
    job.num_done += num_ends;
    if (job.is_cancelled || closing_) core_->abort_all();
  }
}

}  // namespace gossamer
