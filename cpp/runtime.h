// Runtime: the facade. Loads a model directory, runs one engine thread, serves requests given as token ids. All methods are
// thread-safe; errors are the types of core/error.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "engine/results.h"
#include "engine/sampling_params.h"

namespace gossamer {

struct RuntimeOptions {
  std::string device = "auto";     // auto (a GPU if there is one) | cpu | cuda | cuda:0 | reference (plain loops, for tests)
  std::string dtype = "auto";      // activations; auto is float32 on the CPU, float16 on a GPU
  std::int64_t max_model_len = 0;  // 0 = the model's
  std::int64_t max_num_seqs = 64;
  std::int64_t max_num_batched_tokens = 0;  // 0 = the backend's default (CPU: 512, GPU: 2048)
  std::int64_t block_size = 16;
  std::int64_t kv_cache_memory = 0;     // bytes; 0 = the model's need, but no more than a quarter of free memory (CPU) or the next (GPU)
  double gpu_memory_utilization = 0.9;  // share of the GPU's memory that weights, activations and KV cache may fill
  // Not empty: the text of a config.json; a model of this shape with random weights is made, and the path is just its name.
  std::string random_config;
  double random_sparsity = 0.0;  // of the products in the layers
  std::string random_values;     // of the products, the head's too: int8 | fp8; empty = the activations'
  // What a GPU does with weights of 8-bit values and one scale a row: off (they become halves at load) | weights (they stay) |
  // activations (of int8 weights, activations are rounded to 8 bits, too) | auto (weights; off with batch_invariant).
  std::string eight_bit = "auto";
  bool enforce_eager = false;    // never record decode steps as CUDA graphs; the same tokens, more slowly
  bool batch_invariant = false;  // GPU: a request's bits do not depend on its company, more slowly (the CPU's never do)
  std::string cost_table;        // GPU: file that `gossamer tune` made; empty = the times that are built in
  // Code paths that are not the default yet: "ahead" (a step begins before the host has read the one before), and what the device knows
  // (Ops::select_candidate).
  std::vector<std::string> candidates;
  int num_threads = 0;
  std::string isa = "auto";  // auto | portable | avx2 | avx512 | avx512-bf16 (CPU)
  std::uint64_t seed = 0;
  int tensor_parallel_size = 0;  // 0 = what the launcher says
  // Between GPUs: "nccl", or "one-shot" for small messages over peer memory (GPUs of one host; measured alone: docs/scaling.md).
  std::string all_reduce = "nccl";
  double watchdog_seconds = 30;  // with several ranks: how long one may be silent before all end
  std::string verify = "full";   // full | header
  bool allow_symlinks = false;
  std::int64_t max_queue = 1024;  // requests waiting; more is a QueueFullError
  std::function<void(std::int64_t bytes_done, std::int64_t bytes_total)> load_progress;
};

struct SampleOutput {
  std::vector<std::int32_t> tokens;
  std::vector<std::vector<TokenLogprob>> logprobs;
  double cumulative_logprob = 0.0;  // when logprobs were asked for
  FinishReason finish_reason = FinishReason::none;
  std::optional<std::int32_t> stop_token;
};

struct GenerateOutput {
  std::vector<SampleOutput> samples;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // entry 0 is empty: the first token is not predicted
};

struct RuntimeInfo {
  std::string model_path_name, model_id, architecture, producer, pruning_json;
  std::string device, activation_dtype, kv_dtype;
  std::int64_t num_parameters, weight_bytes, table_bytes, sparse_elements, sparse_zeros;
  std::int64_t vocab_size, num_layers, hidden_size, max_model_len;
  std::int64_t kv_bytes, num_blocks, block_size, max_num_seqs, max_num_batched_tokens;
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::int64_t> bos_token_id;
  std::int64_t tensor_parallel_size;  // ranks; bytes above are this rank's
};

struct RuntimeStats {
  std::int64_t steps, prefill_tokens, decode_tokens, preemptions;
  std::int64_t requests_finished, requests_aborted, requests_failed;
  std::int64_t waiting, running, free_blocks;
  double prefill_seconds, decode_seconds;  // steps with any prompt tokens count as prefill
  std::int64_t host_allocations;           // by the Runtime's allocator since load; constant in steady state
  std::int64_t host_live_bytes;
  std::int64_t device_live_bytes;  // on the CPU, the host's
};

// Started by mpirun as one of several ranks, every rank makes the same Runtime, which holds a share of the model. Rank 0 is used as ever;
// the others call serve() and nothing else. A rank that fails, dies or goes silent ends all: rank 0's calls throw EngineDeadError, and
// every process ends within seconds.
class Runtime {
 public:
  explicit Runtime(const std::string& model_path, RuntimeOptions options = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  int rank() const;
  // On ranks other than 0: computes rank 0's steps until it closes its Runtime; then this one is closed, too.
  void serve();

  // Enqueues; checks prompt and parameters first (InvalidArgument, ContextLengthError, QueueFullError, EngineDeadError).
  RequestId submit(std::vector<std::int32_t> prompt, const SamplingParams& params);
  // What is new, oldest first; waits at most `timeout` for something. Empty = nothing yet (or the request is finished and drained).
  // Throws the request's own error (NumericsError, EngineDeadError).
  std::vector<SampleDelta> wait(RequestId id, std::chrono::milliseconds timeout);
  bool finished(RequestId id) const;  // every sample has a finish reason and was drained, wait() threw its error, or the id is unknown
  std::vector<std::vector<TokenLogprob>> prompt_logprobs(RequestId id) const;  // once the first delta came
  // Ends one sample (a stop string matched) or the whole request; tokens computed beyond are discarded. Idempotent.
  void finish_sample(RequestId id, std::int64_t sample, FinishReason reason);
  void abort(RequestId id);
  void release(RequestId id);  // aborts if needed and forgets the request

  // Blocking conveniences over the above. poll, if given, is called about every 50 ms and may throw to cancel everything.
  std::vector<GenerateOutput> generate(const std::vector<std::vector<std::int32_t>>& prompts, const SamplingParams& params,
                                       const std::function<void()>& poll = {});
  // Natural-log probability of each token given those before it; entry 0 of each is 0 (not predicted).
  std::vector<std::vector<float>> score(const std::vector<std::vector<std::int32_t>>& sequences, const std::function<void()>& poll = {});
  // Runs the sequences (each ≤ max_model_len) with a LinearObserver, alone on the engine.
  Calibration calibrate(const std::vector<std::vector<std::int32_t>>& sequences, const std::function<void(std::int64_t done)>& poll = {});

  RuntimeInfo info() const;
  RuntimeStats stats() const;
  void close();  // aborts what runs, joins the engine thread; idempotent; later calls throw InvalidArgument("runtime is closed")

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Bytes per second at which a device's memory can be read; device and num_threads as in RuntimeOptions.
double measure_read_rate(const std::string& device, int num_threads = 0);
std::string version();  // "0.1.0"
std::vector<std::string> supported_architectures();

}  // namespace gossamer
