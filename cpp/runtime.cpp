#include "runtime.h"

#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/engine.h"
#include "engine/follower.h"
#include "engine/make_ops.h"
#include "runtime_load.h"

namespace gossamer {

namespace {

constexpr std::chrono::milliseconds kPollInterval{50};

using Prompts = std::vector<std::vector<std::int32_t>>;

// Calls poll at most every kPollInterval.
class Poller {
 public:
  explicit Poller(const std::function<void()>& poll) : poll_(poll) {}
  void operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (!poll_ || now - last_ < kPollInterval) return;
    last_ = now;
    poll_();
  }

 private:
  const std::function<void()>& poll_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Requests in flight, oldest first; released however the scope ends.
class InFlight {
 public:
  struct Item {
    RequestId id;
    std::size_t index;
  };

  explicit InFlight(Engine& engine) : engine_(engine) {}
  ~InFlight() {
    for (const Item& item : items_) engine_.release(item.id);
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  bool empty() const { return items_.empty(); }
  const Item& oldest() const { return items_.front(); }
  void submit(const std::vector<std::int32_t>& prompt, const SamplingParams& params, std::size_t index) {
    items_.push_back({0, index});  // unknown ids are fine to release
    try {
      items_.back().id = engine_.submit(prompt, params);
    } catch (...) {
      items_.pop_back();
      throw;
    }
  }
  void release_oldest() {
    engine_.release(items_.front().id);
    items_.pop_front();
  }

 private:
  Engine& engine_;
  std::deque<Item> items_;
};

void append(SampleOutput& output, SampleDelta& delta) {
  output.tokens.insert(output.tokens.end(), delta.tokens.begin(), delta.tokens.end());
  for (std::vector<TokenLogprob>& logprobs : delta.logprobs) {
    output.cumulative_logprob += logprobs.front().logprob;
    output.logprobs.push_back(std::move(logprobs));
  }
  output.finish_reason = delta.finish_reason;
  output.stop_token = delta.stop_token;
}

// Keeps the queue as full as it may be; waits for the oldest request first, while all of them run.
std::vector<GenerateOutput> run_all(Engine& engine, const Prompts& prompts, const SamplingParams& params,
                                    const std::function<void()>& poll) {
  for (const std::vector<std::int32_t>& prompt : prompts) engine.validate(prompt, params);
  std::vector<GenerateOutput> outputs(prompts.size());
  InFlight in_flight(engine);
  Poller poll_sometimes(poll);
  std::size_t num_submitted = 0;
  while (num_submitted < prompts.size() || !in_flight.empty()) {
    poll_sometimes();
    try {
      for (; num_submitted < prompts.size(); ++num_submitted) in_flight.submit(prompts[num_submitted], params, num_submitted);
    } catch (const QueueFullError&) {
      if (in_flight.empty()) std::this_thread::sleep_for(kPollInterval);  // full of others' requests
    }
    if (in_flight.empty()) continue;
    const auto [id, index] = in_flight.oldest();
    GenerateOutput& output = outputs[index];
    output.samples.resize(static_cast<std::size_t>(params.n));
    for (SampleDelta& delta : engine.wait(id, kPollInterval)) append(output.samples[static_cast<std::size_t>(delta.sample)], delta);
    if (!engine.finished(id)) continue;
    output.prompt_logprobs = engine.prompt_logprobs(id);
    in_flight.release_oldest();
  }
  return outputs;
}

}  // namespace

struct Runtime::Impl {
  HostAllocator allocator;
  LoadedModel loaded;
  std::int64_t allocations_at_load = 0;
  std::unique_ptr<Engine> engine_of_rank_0;
  std::unique_ptr<Follower> follower;  // on the other ranks
  std::mutex close_mutex;

  Engine& engine() const {
    require(engine_of_rank_0 != nullptr, "this rank follows rank 0: it can only serve()");
    return *engine_of_rank_0;
  }
  void free_model();
};

// Weights are the bulk of the memory; nothing uses them any more.
void Runtime::Impl::free_model() {
  follower.reset();
  loaded.model.reset();
  loaded.comm.reset();
  loaded.ops.reset();
}

Runtime::Runtime(const std::string& model_path, RuntimeOptions options) : impl_(std::make_unique<Impl>()) {
  impl_->loaded = load(model_path, options, impl_->allocator);
  LoadedModel& loaded = impl_->loaded;
  if (rank() == 0) {
    impl_->engine_of_rank_0 = std::make_unique<Engine>(*loaded.ops, *loaded.comm, *loaded.model, loaded.config);
  } else {
    impl_->follower = std::make_unique<Follower>(*loaded.ops, *loaded.comm, *loaded.model, loaded.config);
  }
  impl_->allocations_at_load = impl_->allocator.total_allocations();
}

Runtime::~Runtime() {
  if (impl_->engine_of_rank_0 && impl_->engine_of_rank_0->is_foreign_process()) {
    (void)impl_.release();  // its threads and locks stayed in the parent
    return;
  }
  close();
}

int Runtime::rank() const { return impl_->loaded.ranks ? impl_->loaded.ranks->rank() : 0; }

void Runtime::serve() {
  require(impl_->follower != nullptr, "serve is for ranks other than 0, and once");
  try {
    impl_->follower->serve();
    impl_->loaded.ranks->part();
  } catch (const std::exception&) {  // rank 0 knows, or is gone
    impl_->loaded.ranks->await_end();
  }
  impl_->free_model();
}

void Runtime::close() {
  if (impl_->engine_of_rank_0) impl_->engine_of_rank_0->close();
  const std::lock_guard lock(impl_->close_mutex);
  if (impl_->loaded.model && impl_->loaded.ranks && rank() == 0) {
    try {
      StepChannel(impl_->loaded.ranks->group(), 0).send_stop();
      impl_->loaded.ranks->part();
    } catch (const EngineDeadError&) {  // all are ending; whoever waited for tokens was told why
    }
  }
  impl_->free_model();
}

RequestId Runtime::submit(std::vector<std::int32_t> prompt, const SamplingParams& params) { return impl_->engine().submit(prompt, params); }

std::vector<SampleDelta> Runtime::wait(RequestId id, std::chrono::milliseconds timeout) { return impl_->engine().wait(id, timeout); }

bool Runtime::finished(RequestId id) const { return impl_->engine().finished(id); }

std::vector<std::vector<TokenLogprob>> Runtime::prompt_logprobs(RequestId id) const { return impl_->engine().prompt_logprobs(id); }

void Runtime::finish_sample(RequestId id, std::int64_t sample, FinishReason reason) { impl_->engine().finish_sample(id, sample, reason); }

void Runtime::abort(RequestId id) { impl_->engine().abort(id); }

void Runtime::release(RequestId id) { impl_->engine().release(id); }

std::vector<GenerateOutput> Runtime::generate(const Prompts& prompts, const SamplingParams& params, const std::function<void()>& poll) {
  impl_->engine().require_usable();
  require(!prompts.empty(), "prompts must hold at least one prompt");
  return run_all(impl_->engine(), prompts, params, poll);
}

std::vector<std::vector<float>> Runtime::score(const Prompts& sequences, const std::function<void()>& poll) {
  impl_->engine().require_usable();
  SamplingParams params;
  params.max_tokens = 0;
  params.prompt_logprobs = 0;
  std::vector<std::vector<float>> scores;
  for (const GenerateOutput& output : run_all(impl_->engine(), sequences, params, poll)) {
    std::vector<float>& row = scores.emplace_back();
    for (const std::vector<TokenLogprob>& token : output.prompt_logprobs) row.push_back(token.empty() ? 0.0F : token.front().logprob);
  }
  return scores;
}

Calibration Runtime::calibrate(const Prompts& sequences, const std::function<void(std::int64_t done)>& poll) {
  return impl_->engine().calibrate(sequences, poll);
}

RuntimeInfo Runtime::info() const {
  impl_->engine().require_usable();
  return impl_->loaded.info;
}

RuntimeStats Runtime::stats() const {
  const EngineStats engine = impl_->engine().stats();
  RuntimeStats stats{};
  stats.steps = engine.steps;
  stats.prefill_tokens = engine.prefill_tokens;
  stats.decode_tokens = engine.decode_tokens;
  stats.preemptions = engine.preemptions;
  stats.requests_finished = engine.requests_finished;
  stats.requests_aborted = engine.requests_aborted;
  stats.requests_failed = engine.requests_failed;
  stats.waiting = engine.waiting;
  stats.running = engine.running;
  stats.free_blocks = engine.free_blocks;
  stats.prefill_seconds = engine.prefill_seconds;
  stats.decode_seconds = engine.decode_seconds;
  stats.host_allocations = impl_->allocator.total_allocations() - impl_->allocations_at_load;
  stats.host_live_bytes = impl_->allocator.live_bytes();
  stats.device_live_bytes = impl_->loaded.ops->allocator().live_bytes();
  return stats;
}

double measure_read_rate(const std::string& device, int num_threads) {
  HostAllocator allocator;
  return make_ops({.device = device, .dtype = "auto", .isa = "auto", .num_threads = num_threads}, allocator)->measure_read_rate();
}

std::string version() { return "0.1.0"; }

}  // namespace gossamer
