// What the parts of Engine share: engine_submit.cpp and engine.cpp (callers) and engine_thread.cpp. No one else includes this.
#pragma once

#include <condition_variable>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/calibration.h"
#include "engine/engine.h"

namespace gossamer {

// One of a request's n samples, as its caller sees it.
struct Engine::Sample {
  SequenceId sequence = 0;
  std::vector<std::int32_t> tokens;
  std::vector<TokenLogprob> logprobs;  // a fixed number per token
  std::size_t num_drained = 0;         // tokens that the caller has had
  FinishReason reason = FinishReason::none;
  std::optional<std::int32_t> stop_token;
  bool is_end_drained = false;

  bool is_over() const { return reason != FinishReason::none; }
  bool has_news() const { return num_drained < tokens.size() || (is_over() && !is_end_drained); }
};

struct Engine::Request {
  explicit Request(const SequenceSpec& spec);  // reserves room for all that may come
  bool is_over() const;

  std::vector<Sample> samples;
  std::size_t logprobs_per_token = 0;  // 0 = not asked for
  std::size_t prompt_logprobs_per_token = 0;
  std::vector<TokenLogprob> prompt_logprobs;  // of prompt tokens 1, 2, ...
  std::exception_ptr error;
  bool is_error_seen = false;  // wait() has thrown it; until then the request is not finished
  bool is_counted = false;     // as finished, aborted or failed
  bool is_released = false;
  std::condition_variable changed;
};

// A calibration, run on the engine thread when nothing else is live.
struct Engine::Job {
  std::span<const std::vector<std::int32_t>> sequences;
  SequenceId first_id = 0;  // sequences submitted later wait until the job is done
  CalibrationObserver observer;
  std::int64_t num_done = 0;
  bool is_cancelled = false;
  bool is_finished = false;
  std::exception_ptr error;
};

}  // namespace gossamer
