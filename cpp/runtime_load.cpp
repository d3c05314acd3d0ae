#include "runtime_load.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <optional>
#include <string_view>

#include "comm/handshake.h"
#include "core/log.h"
#include "engine/kv_plan.h"
#include "engine/make_ops.h"
#include "model/checkpoint.h"
#include "ops/plugin.h"

namespace gossamer {

namespace {

constexpr std::int64_t kDefaultBatchedTokens = 512;      // CPU
constexpr std::int64_t kDefaultGpuBatchedTokens = 2048;  // a sparse weight is expanded once per chunk
constexpr std::int64_t kMaxSeqs = 4096;
constexpr std::int64_t kMaxBatchedTokens = 1 << 20;
constexpr std::int64_t kMaxBlockSize = 1024;
constexpr std::int64_t kMaxRanks = 4096;
constexpr int kMaxWatchdogSeconds = 86400;

void require_between(std::string_view option, std::int64_t value, std::int64_t low, std::int64_t high) {
  require(value >= low && value <= high, std::string(option) + " must be between " + std::to_string(low) + " and " + std::to_string(high) +
                                             ", not " + std::to_string(value));
}

std::int64_t batched_tokens(const RuntimeOptions& options, Device device) {
  const std::int64_t usual = device.kind == Device::Kind::cpu ? kDefaultBatchedTokens : kDefaultGpuBatchedTokens;
  return options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens : std::max(usual, options.max_num_seqs);
}

// The last component of the path: messages and info show no more of it.
std::string bare_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

// Bytes for the KV cache on a device with memory of its own: the share that we may fill, less what is in use and what a step needs.
std::int64_t device_kv_memory(const DeviceMemory& memory, const Model& model, const RuntimeOptions& options, Device device) {
  const std::int64_t max_len = options.max_model_len > 0 ? options.max_model_len : model.config().max_positions;
  const std::int64_t workspace = Executor::workspace_bytes(model, {.max_num_seqs = options.max_num_seqs,
                                                                   .max_num_batched_tokens = batched_tokens(options, device),
                                                                   .max_model_len = max_len,
                                                                   .block_size = options.block_size});
  const auto fillable = static_cast<std::int64_t>(options.gpu_memory_utilization * static_cast<double>(memory.total_bytes));
  const std::int64_t left = fillable - (memory.total_bytes - memory.free_bytes) - workspace;
  if (left <= 0) {
    throw OutOfMemoryError(static_cast<std::size_t>(workspace), memory.free_bytes, device.to_string(),
                           "No memory is left for the KV cache: raise gpu_memory_utilization, lower max_num_batched_tokens, use a smaller "
                           "or sparser model, or end what else runs on this GPU");
  }
  return left;
}

KvPlan plan_kv(const Model& model, const Ops& ops, const RuntimeOptions& options, std::int64_t free_host_bytes) {
  const ModelConfig& config = model.config();
  KvCacheShape shape = model.kv_shape();
  std::int64_t memory = options.kv_cache_memory;
  if (const auto device = ops.device_memory(); device && memory == 0) memory = device_kv_memory(*device, model, options, ops.device());
  shape.block_size = options.block_size;
  shape.num_blocks = 1;
  const KvPlan plan = plan_kv_cache({.bytes_per_block = shape.bytes_per_block(),
                                     .block_size = options.block_size,
                                     .max_positions = config.max_positions,
                                     .max_model_len = options.max_model_len,
                                     .max_num_seqs = options.max_num_seqs,
                                     .kv_cache_memory = memory,
                                     .free_bytes = free_host_bytes});
  if (plan.is_shortened) {
    log(LogLevel::warning, "the KV cache has room for " + std::to_string(plan.max_model_len) +
                               " tokens, so max_model_len is that and not the model's " + std::to_string(config.max_positions) +
                               "; raise " + (ops.device_memory() ? "gpu_memory_utilization or kv_cache_memory" : "kv_cache_memory") +
                               " for longer sequences");
  }
  return plan;
}

RuntimeInfo describe(const std::string& model_path, const Manifest& manifest, const LoadedModel& loaded) {
  const ModelConfig& config = loaded.model->config();
  const WeightStats weights = loaded.model->stats();
  RuntimeInfo info{};
  info.model_path_name = bare_name(model_path);
  info.model_id = manifest.model_id;
  info.architecture = config.architecture;
  info.producer = manifest.producer;
  info.pruning_json = manifest.pruning_json;
  info.device = loaded.ops->description();
  info.activation_dtype = name_of(loaded.ops->activation_dtype());
  KvCacheShape kv = loaded.model->kv_shape();
  kv.num_blocks = loaded.config.num_blocks;
  kv.block_size = loaded.config.block_size;
  info.kv_dtype = name_of(kv.dtype);
  info.num_parameters = weights.num_parameters;
  info.weight_bytes = weights.weight_bytes;
  info.table_bytes = weights.table_bytes;
  info.sparse_elements = weights.sparse_elements;
  info.sparse_zeros = weights.sparse_zeros;
  info.vocab_size = config.vocab_size;
  info.num_layers = config.num_layers;
  info.hidden_size = config.hidden_size;
  info.max_model_len = loaded.config.max_model_len;
  info.kv_bytes = kv.bytes_per_block() * kv.num_blocks;
  info.num_blocks = kv.num_blocks;
  info.block_size = kv.block_size;
  info.max_num_seqs = loaded.config.max_num_seqs;
  info.max_num_batched_tokens = loaded.config.max_num_batched_tokens;
  info.eos_token_ids = config.eos_token_ids;
  info.bos_token_id = config.bos_token_id;
  info.tensor_parallel_size = loaded.comm->size();
  return info;
}

}  // namespace

void validate(const RuntimeOptions& options) {
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  require_between("max_model_len", options.max_model_len, 0, kAny);
  require_between("max_num_seqs", options.max_num_seqs, 1, kMaxSeqs);
  if (options.max_num_batched_tokens != 0) {
    require_between("max_num_batched_tokens (unless it is 0, the default)", options.max_num_batched_tokens, options.max_num_seqs,
                    kMaxBatchedTokens);
  }
  require_between("block_size", options.block_size, 1, kMaxBlockSize);
  require_between("kv_cache_memory", options.kv_cache_memory, 0, kAny);
  require(options.gpu_memory_utilization > 0 && options.gpu_memory_utilization <= 1,
          "gpu_memory_utilization must be above 0 and at most 1, not " + std::to_string(options.gpu_memory_utilization));
  require(options.random_sparsity >= 0 && options.random_sparsity < 1,
          "sparsity must be at least 0 and below 1, not " + std::to_string(options.random_sparsity));
  require(options.random_values.empty() || options.random_values == "int8" || options.random_values == "fp8",
          "values must be int8 or fp8, not '" + printable(options.random_values) + "'");
  require_between("tensor_parallel_size", options.tensor_parallel_size, 0, kMaxRanks);
  require(options.watchdog_seconds >= 1 && options.watchdog_seconds <= kMaxWatchdogSeconds,
          "watchdog_seconds must be between 1 and " + std::to_string(kMaxWatchdogSeconds) + ", not " +
              std::to_string(options.watchdog_seconds));
  require(options.all_reduce == "nccl" || options.all_reduce == "one-shot",
          "all_reduce must be nccl or one-shot, not '" + printable(options.all_reduce) + "'");
  require(options.verify == "full" || options.verify == "header", "verify must be full or header, not '" + printable(options.verify) + "'");
  require_between("max_queue", options.max_queue, 0, kAny / 2);
}

namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

// What all ranks must have in common, or what they compute together is nonsense.
Fields fields_of(const RuntimeOptions& options, const LoadedModel& loaded, const Manifest& manifest) {
  const auto text = [](const auto& value) { return std::to_string(value); };
  return {{"build", build_id()},
          {"checkpoint (digest of gossamer.json)", manifest.digest},
          {"model", manifest.model_id},
          {"tensor_parallel_size", text(loaded.ranks->size())},
          {"kind of device", loaded.ops->device().kind == Device::Kind::cuda ? "cuda" : "cpu"},
          {"dtype", options.dtype},  // on a CPU bfloat16 is no dtype of activations but of products
          {"dtype of activations", std::string(name_of(loaded.ops->activation_dtype()))},
          {"max_model_len", text(options.max_model_len)},
          {"max_num_seqs", text(options.max_num_seqs)},
          {"max_num_batched_tokens", text(batched_tokens(options, loaded.ops->device()))},
          {"block_size", text(options.block_size)},
          {"kv_cache_memory", text(options.kv_cache_memory)},
          {"seed", text(options.seed)},
          {"all_reduce", options.all_reduce},
          {"candidates", joined(options.candidates)},
          {"enforce_eager", text(options.enforce_eager)},
          {"batch_invariant", text(options.batch_invariant)},
          {"random weights", options.random_config},
          {"sparsity", text(options.random_sparsity)},
          {"values", options.random_values},
          {"eight_bit", options.eight_bit}};
}

DeviceOptions device_options(const RuntimeOptions& options) {
  return {.device = options.device,
          .dtype = options.dtype,
          .isa = options.isa,
          .num_threads = options.num_threads,
          .eight_bit = options.eight_bit,
          .batch_invariant = options.batch_invariant,
          .cost_table = options.cost_table};
}

std::optional<Checkpoint> open_checkpoint(const std::string& model_path, const RuntimeOptions& options) {
  if (!options.random_config.empty()) return std::nullopt;
  return Checkpoint::open(model_path, options.verify == "full" ? Verify::full : Verify::header, options.allow_symlinks);
}

Manifest manifest_of(const std::optional<Checkpoint>& checkpoint) {
  if (checkpoint) return checkpoint->manifest();
  Manifest random;
  random.model_id = "random";
  random.pruning_json = "null";
  return random;
}

RandomWeights random_weights(const RuntimeOptions& options) {
  RandomWeights weights{.sparsity = options.random_sparsity, .seed = options.seed};
  if (options.random_values == "int8") weights.values = DType::i8;
  if (options.random_values == "fp8") weights.values = DType::e4m3;
  return weights;
}

// Opens device and checkpoint (none for random weights); with several ranks they then agree that it is the same for all.
std::optional<Checkpoint> prepare(LoadedModel& loaded, const std::string& model_path, RuntimeOptions& options, Allocator& allocator) {
  if (!loaded.ranks) {
    loaded.ops = make_ops(device_options(options), allocator);
    loaded.comm = make_single_communicator();
    return open_checkpoint(model_path, options);
  }
  const int threads = loaded.ranks->share_of_cores();
  if (options.num_threads == 0) options.num_threads = threads;
  std::optional<Checkpoint> checkpoint;
  Fields fields;
  std::exception_ptr failure;
  try {
    options.device = loaded.ranks->own_device(options.device, options.dtype);
    loaded.ops = make_ops(device_options(options), allocator);
    checkpoint = open_checkpoint(model_path, options);
    fields = fields_of(options, loaded, manifest_of(checkpoint));
  } catch (...) {
    failure = std::current_exception();
  }
  require_agreement(loaded.ranks->group(), fields, failure);
  loaded.ranks->require_own_gpu();
  loaded.comm = loaded.ranks->make_communicator(*loaded.ops, options);
  return checkpoint;
}

void load_into(LoadedModel& loaded, const std::string& model_path, RuntimeOptions options, Allocator& allocator) {
  const std::optional<Checkpoint> checkpoint = prepare(loaded, model_path, options, allocator);
  bool runs_ahead = false, heads_in_step = false;
  for (const std::string& candidate : options.candidates) {
    if (candidate == "ahead") {
      runs_ahead = true;
    } else if (candidate == "head") {
      heads_in_step = true;
    } else {
      loaded.ops->select_candidate(candidate);
    }
  }
  ThreadPool pool(options.num_threads);
  const LoadOptions load_options{.progress = options.load_progress, .max_positions = options.max_model_len};
  loaded.model = checkpoint
                     ? load_model(*checkpoint, *loaded.ops, *loaded.comm, pool, load_options)
                     : make_random_model(options.random_config, random_weights(options), *loaded.ops, *loaded.comm, pool, load_options);
  const std::int64_t sharers = loaded.ranks ? loaded.ranks->local_size() : 1;
  KvPlan plan = plan_kv(*loaded.model, *loaded.ops, options, available_host_memory() / sharers);
  if (loaded.ranks) {  // as large as the rank with the least memory can have it
    plan.num_blocks = loaded.ranks->group().minimum(plan.num_blocks);
    plan.max_model_len = loaded.ranks->group().minimum(plan.max_model_len);
  }
  loaded.config = {.max_model_len = plan.max_model_len,
                   .max_num_seqs = options.max_num_seqs,
                   .max_num_batched_tokens = batched_tokens(options, loaded.ops->device()),
                   .block_size = options.block_size,
                   .num_blocks = plan.num_blocks,
                   .max_queue = options.max_queue,
                   .seed = options.seed,
                   .enforce_eager = options.enforce_eager,
                   .runs_ahead = runs_ahead,
                   .heads_in_step = heads_in_step,
                   .group = loaded.ranks ? &loaded.ranks->group() : nullptr,
                   .limits_steps = loaded.ops->device().kind != Device::Kind::cpu};
  loaded.info = describe(model_path, manifest_of(checkpoint), loaded);
}

}  // namespace

LoadedModel load(const std::string& model_path, const RuntimeOptions& options, Allocator& allocator) {
  validate(options);
  LoadedModel loaded;
  loaded.ranks = Ranks::join(options);
  try {
    load_into(loaded, model_path, options, allocator);
  } catch (const std::exception& error) {
    if (!loaded.ranks) throw;
    loaded.ranks->group().fail("rank " + std::to_string(loaded.ranks->rank()) + " failed: " + error.what());
    if (!loaded.ranks->leads()) loaded.ranks->await_end();
    throw;
  }
  return loaded;
}

}  // namespace gossamer
