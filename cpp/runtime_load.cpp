#include "runtime_load.h"

#include <algorithm>
#include <limits>
#include <string_view>

#include "core/log.h"
#include "engine/kv_plan.h"
#include "engine/make_ops.h"
#include "model/checkpoint.h"

namespace gossamer {

namespace {

constexpr std::int64_t kDefaultBatchedTokens = 512;      // CPU
constexpr std::int64_t kDefaultGpuBatchedTokens = 2048;  // a sparse weight is expanded once per chunk
constexpr std::int64_t kMaxSeqs = 4096;
constexpr std::int64_t kMaxBatchedTokens = 1 << 20;
constexpr std::int64_t kMaxBlockSize = 1024;

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

KvPlan plan_kv(const Model& model, const Ops& ops, const RuntimeOptions& options) {
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
                                     .free_bytes = available_host_memory()});
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
  require(options.tensor_parallel_size == 0 || options.tensor_parallel_size == 1,
          "tensor_parallel_size must be 0 or 1 in this build, not " + std::to_string(options.tensor_parallel_size));
  require(options.verify == "full" || options.verify == "header", "verify must be full or header, not '" + printable(options.verify) + "'");
  require_between("max_queue", options.max_queue, 0, kAny / 2);
}

LoadedModel load(const std::string& model_path, const RuntimeOptions& options, Allocator& allocator) {
  validate(options);
  LoadedModel loaded;
  loaded.ops = make_ops({options.device, options.dtype, options.isa, options.num_threads}, allocator);
  loaded.comm = make_single_communicator();
  Manifest manifest;
  ThreadPool pool(options.num_threads);
  const LoadOptions load_options{.progress = options.load_progress, .max_positions = options.max_model_len};
  if (!options.random_config.empty()) {
    loaded.model = make_random_model(options.random_config, {.sparsity = options.random_sparsity, .seed = options.seed}, *loaded.ops,
                                     *loaded.comm, pool, load_options);
    manifest.model_id = "random";
    manifest.pruning_json = "null";
  } else {
    const Checkpoint checkpoint =
        Checkpoint::open(model_path, options.verify == "full" ? Verify::full : Verify::header, options.allow_symlinks);
    loaded.model = load_model(checkpoint, *loaded.ops, *loaded.comm, pool, load_options);
    manifest = checkpoint.manifest();
  }
  const KvPlan plan = plan_kv(*loaded.model, *loaded.ops, options);
  loaded.config = {.max_model_len = plan.max_model_len,
                   .max_num_seqs = options.max_num_seqs,
                   .max_num_batched_tokens = batched_tokens(options, loaded.ops->device()),
                   .block_size = options.block_size,
                   .num_blocks = plan.num_blocks,
                   .max_queue = options.max_queue,
                   .seed = options.seed,
                   .enforce_eager = options.enforce_eager};
  loaded.info = describe(model_path, manifest, loaded);
  return loaded;
}

}  // namespace gossamer
