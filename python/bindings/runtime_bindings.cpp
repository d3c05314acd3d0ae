// The Runtime as Python sees it: token ids in, token ids out. Text, stop strings and results are Python's.
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <algorithm>

#include "bindings.h"
#include "interruptible.h"
#include "runtime.h"

namespace gossamer::python {
namespace {

using Tokens = std::vector<std::int32_t>;

std::optional<std::string> reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::none: return std::nullopt;
    case FinishReason::stop: return "stop";
    case FinishReason::length: return "length";
    case FinishReason::abort: return "abort";
  }
  return std::nullopt;
}

FinishReason reason_from_name(const std::string& name) {
  for (const FinishReason reason : {FinishReason::stop, FinishReason::length, FinishReason::abort}) {
    if (reason_name(reason) == name) return reason;
  }
  throw InvalidArgument("reason must be stop, length or abort");
}

// A Runtime with the process that made it: after a fork the child has neither its threads nor a usable copy of its locks.
class Engine {
 public:
  using Progress = std::function<void(std::int64_t, std::int64_t)>;

  Engine(const std::string& path, RuntimeOptions options, const Progress& progress) {
    std::atomic<std::int64_t> bytes_done = 0;
    std::atomic<std::int64_t> bytes_total = 0;
    run_interruptible(
        [&](const std::function<void()>& poll) {
          options.load_progress = [&](std::int64_t done, std::int64_t total) {
            bytes_done = done;
            bytes_total = total;
            poll();
          };
          runtime_ = std::make_unique<Runtime>(path, std::move(options));
        },
        [&] {
          if (progress) progress(bytes_done, bytes_total);
        });
  }
  ~Engine() {
    if (getpid() != process_) {
      (void)runtime_.release();
      return;
    }
    const GilRelease release;
    runtime_.reset();
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Runtime& runtime() const {
    if (getpid() != process_) {
      throw std::runtime_error(
          "this Runtime was made in another process, before a fork; make one in this process, or start processes with the "
          "\"spawn\" method");
    }
    return *runtime_;
  }

 private:
  std::unique_ptr<Runtime> runtime_;
  pid_t process_ = getpid();
};

std::vector<std::vector<float>> score(const Engine& engine, const std::vector<Tokens>& sequences) {
  std::vector<std::vector<float>> result;
  Runtime& runtime = engine.runtime();
  run_interruptible([&](const std::function<void()>& poll) { result = runtime.score(sequences, poll); });
  return result;
}

nb::tuple calibrate(const Engine& engine, const std::vector<Tokens>& sequences, const std::function<void(std::int64_t)>& progress) {
  Calibration calibration;
  std::atomic<std::int64_t> sequences_done = 0;
  Runtime& runtime = engine.runtime();
  run_interruptible(
      [&](const std::function<void()>& poll) {
        calibration = runtime.calibrate(sequences, [&](std::int64_t done) {
          sequences_done = done;
          poll();
        });
      },
      [&] {
        if (progress) progress(sequences_done);
      });
  nb::dict sums;
  for (const auto& [name, values] : calibration.sum_squares) {
    const std::size_t bytes = values.size() * sizeof(double);
    auto* copy = new std::vector<double>(values);
    const nb::capsule owner(copy, [](void* pointer) noexcept { delete static_cast<std::vector<double>*>(pointer); });
    sums[to_str(name)] = nb::ndarray<nb::numpy, double, nb::ndim<1>>(copy->data(), {bytes / sizeof(double)}, owner);
  }
  return nb::make_tuple(calibration.num_tokens, sums);
}

void bind_options(nb::module_& module) {
  nb::class_<RuntimeOptions>(module, "RuntimeOptions")
      .def(nb::init<>())
      .def_rw("device", &RuntimeOptions::device)
      .def_rw("dtype", &RuntimeOptions::dtype)
      .def_rw("max_model_len", &RuntimeOptions::max_model_len)
      .def_rw("max_num_seqs", &RuntimeOptions::max_num_seqs)
      .def_rw("max_num_batched_tokens", &RuntimeOptions::max_num_batched_tokens)
      .def_rw("block_size", &RuntimeOptions::block_size)
      .def_rw("kv_cache_memory", &RuntimeOptions::kv_cache_memory)
      .def_rw("gpu_memory_utilization", &RuntimeOptions::gpu_memory_utilization)
      .def_rw("random_config", &RuntimeOptions::random_config)
      .def_rw("random_sparsity", &RuntimeOptions::random_sparsity)
      .def_rw("random_values", &RuntimeOptions::random_values)
      .def_rw("eight_bit", &RuntimeOptions::eight_bit)
      .def_rw("enforce_eager", &RuntimeOptions::enforce_eager)
      .def_rw("batch_invariant", &RuntimeOptions::batch_invariant)
      .def_rw("cost_table", &RuntimeOptions::cost_table)
      .def_rw("candidates", &RuntimeOptions::candidates)
      .def_rw("num_threads", &RuntimeOptions::num_threads)
      .def_rw("isa", &RuntimeOptions::isa)
      .def_rw("seed", &RuntimeOptions::seed)
      .def_rw("tensor_parallel_size", &RuntimeOptions::tensor_parallel_size)
      .def_rw("all_reduce", &RuntimeOptions::all_reduce)
      .def_rw("watchdog_seconds", &RuntimeOptions::watchdog_seconds)
      .def_rw("verify", &RuntimeOptions::verify)
      .def_rw("allow_symlinks", &RuntimeOptions::allow_symlinks)
      .def_rw("max_queue", &RuntimeOptions::max_queue);
  nb::class_<SamplingParams>(module, "SamplingParams")
      .def(nb::init<>())
      .def_rw("n", &SamplingParams::n)
      .def_rw("temperature", &SamplingParams::temperature)
      .def_rw("top_k", &SamplingParams::top_k)
      .def_rw("top_p", &SamplingParams::top_p)
      .def_rw("min_p", &SamplingParams::min_p)
      .def_rw("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_rw("presence_penalty", &SamplingParams::presence_penalty)
      .def_rw("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_rw("seed", &SamplingParams::seed, nb::arg("seed").none())
      .def_rw("stop_token_ids", &SamplingParams::stop_token_ids)
      .def_rw("ignore_eos", &SamplingParams::ignore_eos)
      .def_rw("max_tokens", &SamplingParams::max_tokens, nb::arg("max_tokens").none())
      .def_rw("min_tokens", &SamplingParams::min_tokens)
      .def_rw("logprobs", &SamplingParams::logprobs, nb::arg("logprobs").none())
      .def_rw("prompt_logprobs", &SamplingParams::prompt_logprobs, nb::arg("prompt_logprobs").none())
      .def_rw("logit_bias", &SamplingParams::logit_bias);
}

void bind_results(nb::module_& module) {
  nb::class_<TokenLogprob>(module, "TokenLogprob")
      .def_ro("token", &TokenLogprob::token)
      .def_ro("logprob", &TokenLogprob::logprob)
      .def_ro("rank", &TokenLogprob::rank);
  nb::class_<SampleDelta>(module, "SampleDelta")
      .def_ro("sample", &SampleDelta::sample)
      .def_ro("tokens", &SampleDelta::tokens)
      .def_ro("logprobs", &SampleDelta::logprobs)
      .def_prop_ro("finish_reason", [](const SampleDelta& delta) { return reason_name(delta.finish_reason); })
      .def_ro("stop_token", &SampleDelta::stop_token);
  nb::class_<RuntimeInfo>(module, "RuntimeInfo")
      .def_ro("model_path_name", &RuntimeInfo::model_path_name)
      .def_ro("model_id", &RuntimeInfo::model_id)
      .def_ro("architecture", &RuntimeInfo::architecture)
      .def_ro("producer", &RuntimeInfo::producer)
      .def_ro("pruning_json", &RuntimeInfo::pruning_json)
      .def_ro("device", &RuntimeInfo::device)
      .def_ro("activation_dtype", &RuntimeInfo::activation_dtype)
      .def_ro("kv_dtype", &RuntimeInfo::kv_dtype)
      .def_ro("num_parameters", &RuntimeInfo::num_parameters)
      .def_ro("weight_bytes", &RuntimeInfo::weight_bytes)
      .def_ro("table_bytes", &RuntimeInfo::table_bytes)
      .def_ro("sparse_elements", &RuntimeInfo::sparse_elements)
      .def_ro("sparse_zeros", &RuntimeInfo::sparse_zeros)
      .def_ro("vocab_size", &RuntimeInfo::vocab_size)
      .def_ro("num_layers", &RuntimeInfo::num_layers)
      .def_ro("hidden_size", &RuntimeInfo::hidden_size)
      .def_ro("max_model_len", &RuntimeInfo::max_model_len)
      .def_ro("kv_bytes", &RuntimeInfo::kv_bytes)
      .def_ro("num_blocks", &RuntimeInfo::num_blocks)
      .def_ro("block_size", &RuntimeInfo::block_size)
      .def_ro("max_num_seqs", &RuntimeInfo::max_num_seqs)
      .def_ro("max_num_batched_tokens", &RuntimeInfo::max_num_batched_tokens)
      .def_ro("eos_token_ids", &RuntimeInfo::eos_token_ids)
      .def_ro("bos_token_id", &RuntimeInfo::bos_token_id)
      .def_ro("tensor_parallel_size", &RuntimeInfo::tensor_parallel_size);
  nb::class_<RuntimeStats>(module, "RuntimeStats")
      .def_ro("steps", &RuntimeStats::steps)
      .def_ro("prefill_tokens", &RuntimeStats::prefill_tokens)
      .def_ro("decode_tokens", &RuntimeStats::decode_tokens)
      .def_ro("preemptions", &RuntimeStats::preemptions)
      .def_ro("requests_finished", &RuntimeStats::requests_finished)
      .def_ro("requests_aborted", &RuntimeStats::requests_aborted)
      .def_ro("requests_failed", &RuntimeStats::requests_failed)
      .def_ro("waiting", &RuntimeStats::waiting)
      .def_ro("running", &RuntimeStats::running)
      .def_ro("free_blocks", &RuntimeStats::free_blocks)
      .def_ro("prefill_seconds", &RuntimeStats::prefill_seconds)
      .def_ro("decode_seconds", &RuntimeStats::decode_seconds)
      .def_ro("host_allocations", &RuntimeStats::host_allocations)
      .def_ro("host_live_bytes", &RuntimeStats::host_live_bytes)
      .def_ro("device_live_bytes", &RuntimeStats::device_live_bytes);
}

// Calls a member of Runtime without the GIL.
template <typename R, typename... Args>
auto unlocked(R (Runtime::*member)(Args...)) {
  return [member](const Engine& engine, std::decay_t<Args>... args) {
    Runtime& runtime = engine.runtime();
    const GilRelease release;
    return (runtime.*member)(std::move(args)...);
  };
}
template <typename R, typename... Args>
auto unlocked(R (Runtime::*member)(Args...) const) {
  return [member](const Engine& engine, std::decay_t<Args>... args) {
    const Runtime& runtime = engine.runtime();
    const GilRelease release;
    return (runtime.*member)(std::move(args)...);
  };
}

std::vector<SampleDelta> wait(const Engine& engine, RequestId id, int timeout_ms) {
  Runtime& runtime = engine.runtime();
  const GilRelease release;
  // At most 50 ms, so that the interpreter looks for signals in between.
  return runtime.wait(id, std::chrono::milliseconds(std::clamp(timeout_ms, 0, 50)));
}

void finish_sample(const Engine& engine, RequestId id, std::int64_t sample, const std::string& reason) {
  Runtime& runtime = engine.runtime();
  const FinishReason parsed = reason_from_name(reason);
  const GilRelease release;
  runtime.finish_sample(id, sample, parsed);
}

}  // namespace

void bind_runtime(nb::module_& module) {
  bind_options(module);
  bind_results(module);
  module.def(
      "measure_read_rate",
      [](const std::string& device, int num_threads) {
        const GilRelease release;
        return measure_read_rate(device, num_threads);
      },
      nb::arg("device"), nb::arg("num_threads") = 0, "Bytes per second at which the device's memory can be read.");
  nb::class_<Engine>(module, "Engine", nb::is_weak_referenceable())
      .def(nb::init<const std::string&, RuntimeOptions, const Engine::Progress&>(), nb::arg("path"), nb::arg("options"),
           nb::arg("progress").none() = nb::none(), "Loads a model directory; progress(bytes_done, bytes_total) may raise to cancel.")
      .def("rank", unlocked(&Runtime::rank))
      .def("serve", unlocked(&Runtime::serve), "On ranks other than 0: computes rank 0's steps until it closes its Runtime.")
      .def("submit", unlocked(&Runtime::submit), nb::arg("prompt"), nb::arg("params"))
      .def("wait", &wait, nb::arg("id"), nb::arg("timeout_ms"), "What is new; waits at most timeout_ms, and never over 50 ms.")
      .def("finished", unlocked(&Runtime::finished), nb::arg("id"))
      .def("prompt_logprobs", unlocked(&Runtime::prompt_logprobs), nb::arg("id"))
      .def("finish_sample", &finish_sample, nb::arg("id"), nb::arg("sample"), nb::arg("reason"))
      .def("abort", unlocked(&Runtime::abort), nb::arg("id"))
      .def("release", unlocked(&Runtime::release), nb::arg("id"))
      .def("score", &score, nb::arg("sequences"))
      .def("calibrate", &calibrate, nb::arg("sequences"), nb::arg("progress").none() = nb::none(),
           "(number of tokens, weight name -> float64 [in_features])")
      .def("info", unlocked(&Runtime::info))
      .def("stats", unlocked(&Runtime::stats))
      .def("close", unlocked(&Runtime::close));
}

}  // namespace gossamer::python
