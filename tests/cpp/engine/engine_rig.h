// An engine on a FakeModel and reference ops, and the plain way to run requests to their end.
#pragma once

#include <bit>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cpu/cpu_ops.h"
#include "engine/engine.h"
#include "support/fake_model.h"

namespace gossamer {

inline EngineConfig small_config() {
  EngineConfig config;
  config.max_model_len = 200;
  config.max_num_seqs = 8;
  config.max_num_batched_tokens = 32;
  config.block_size = 4;
  config.num_blocks = 128;
  config.check_invariants = true;
  return config;
}

struct SampleText {
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<TokenLogprob>> logprobs;
  FinishReason reason = FinishReason::none;
  std::optional<std::int32_t> stop_token;
};

inline bool operator==(const TokenLogprob& a, const TokenLogprob& b) {
  return a.token == b.token && std::bit_cast<std::uint32_t>(a.logprob) == std::bit_cast<std::uint32_t>(b.logprob) && a.rank == b.rank;
}
inline bool operator==(const SampleText& a, const SampleText& b) {
  return a.tokens == b.tokens && a.logprobs == b.logprobs && a.reason == b.reason && a.stop_token == b.stop_token;
}

inline std::vector<SampleText> collect(Engine& engine, RequestId id, std::size_t n = 1) {
  std::vector<SampleText> samples(n);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!engine.finished(id)) {
    if (std::chrono::steady_clock::now() > deadline) throw InternalError("the request does not finish");
    for (SampleDelta& delta : engine.wait(id, std::chrono::milliseconds(1000))) {
      SampleText& sample = samples.at(static_cast<std::size_t>(delta.sample));
      sample.tokens.insert(sample.tokens.end(), delta.tokens.begin(), delta.tokens.end());
      sample.logprobs.insert(sample.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      sample.reason = delta.finish_reason;
      sample.stop_token = delta.stop_token;
    }
  }
  return samples;
}

struct Rig {
  explicit Rig(const EngineConfig& config = small_config()) : engine(*ops, *comm, model, config) {}

  std::vector<SampleText> run(const std::vector<std::int32_t>& prompt, const SamplingParams& params) {
    const RequestId id = engine.submit(prompt, params);
    std::vector<SampleText> samples = collect(engine, id, static_cast<std::size_t>(params.n));
    engine.release(id);
    return samples;
  }

  std::unique_ptr<Ops> ops = make_reference_ops();
  std::unique_ptr<Communicator> comm = make_single_communicator();
  testing::FakeModel model;
  Engine engine;
};

// Holds the engine thread at the start of a forward pass until it is told to go on.
class Gate {
 public:
  explicit Gate(testing::FakeModel& model) {
    model.on_forward = [this](std::int64_t) {
      std::unique_lock lock(mutex_);
      ++arrived_;
      changed_.notify_all();
      changed_.wait(lock, [this] { return open_ || passes_ > 0; });
      if (!open_) --passes_;
    };
  }
  void await_arrival(std::int64_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }
  void pass() {
    const std::lock_guard lock(mutex_);
    ++passes_;
    changed_.notify_all();
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t arrived_ = 0;
  std::int64_t passes_ = 0;
  bool open_ = false;
};

inline SamplingParams greedy(std::int64_t max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  return params;
}

}  // namespace gossamer
