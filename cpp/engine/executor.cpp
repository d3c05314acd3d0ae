#include "engine/executor.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "core/error.h"

namespace gossamer {

namespace {

constexpr std::int64_t kLogitsBytes = 64 << 20;
constexpr std::int64_t kSectionAlign = static_cast<std::int64_t>(kAlignment / sizeof(std::int32_t));

std::int64_t aligned(std::int64_t count) { return (count + kSectionAlign - 1) / kSectionAlign * kSectionAlign; }

std::int64_t choose_logit_rows(const ModelConfig& model, const ExecutorConfig& config) {
  const std::int64_t row_bytes = model.vocab_size * static_cast<std::int64_t>(sizeof(float));
  return std::clamp<std::int64_t>(kLogitsBytes / row_bytes, 1, config.max_num_batched_tokens);
}

std::int64_t max_blocks_per_sequence(const ExecutorConfig& config) {
  return (config.max_model_len + config.block_size - 1) / config.block_size;
}

// token_ids, positions, slots and, where steps run ahead, rows of the draw before; query_start, context_len; block_table.
std::int64_t max_inputs(const ExecutorConfig& config) {
  return (config.runs_ahead ? 4 : 3) * aligned(config.max_num_batched_tokens) + aligned(config.max_num_seqs + 1) +
         aligned(config.max_num_seqs) + aligned(config.max_num_seqs * max_blocks_per_sequence(config));
}

// The sizes of recorded steps: sequences by powers of two up to 8, then by eights; blocks of the table by powers of two.
std::int64_t bucket_of_sequences(std::int64_t count, std::int64_t most) {
  const std::int64_t bucket =
      count <= 8 ? static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(count))) : (count + 7) / 8 * 8;
  return std::min(bucket, most);
}

std::int64_t bucket_of_blocks(std::int64_t width, std::int64_t most) {
  constexpr std::int64_t kFewest = 16;
  return std::min(most, static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max(width, kFewest)))));
}

bool is_one_after_the_other(std::span<const std::int32_t> rows) {  // from 0
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] != static_cast<std::int32_t>(i)) return false;
  }
  return true;
}

KvCacheShape kv_shape(const Model& model, const ExecutorConfig& config) {
  KvCacheShape shape = model.kv_shape();
  shape.num_blocks = config.num_blocks;
  shape.block_size = config.block_size;
  return shape;
}

}  // namespace

Executor::Executor(Ops& ops, Communicator& comm, const Model& model, const ExecutorConfig& config)
    : ops_(ops),
      model_(model),
      config_(config),
      kv_(ops.allocator(), kv_shape(model, config)),
      arena_(ops.allocator(), model.arena_bytes(config.max_num_batched_tokens, choose_logit_rows(model.config(), config))),
      context_{ops, comm, arena_},
      max_logit_rows_(choose_logit_rows(model.config(), config)),
      logits_(ops.allocator(), DType::f32, {max_logit_rows_, model.config().vocab_size}),
      logit_rows_(ops.allocator(), DType::i32, {max_logit_rows_}),
      drawn_(ops.allocator(), DType::i32, {max_logit_rows_}),
      device_inputs_(ops.allocator(), DType::i32, {max_inputs(config)}),
      inputs_(static_cast<std::size_t>(max_inputs(config))) {
  rows_.reserve(static_cast<std::size_t>(max_logit_rows_));
  if (config.group != nullptr && config.group->leads()) followers_.emplace(*config.group, max_inputs(config));
}

std::int64_t Executor::workspace_bytes(const Model& model, const ExecutorConfig& config) {
  const std::int64_t rows = choose_logit_rows(model.config(), config);
  const auto arena = static_cast<std::int64_t>(model.arena_bytes(config.max_num_batched_tokens, rows));
  return arena + rows * (model.config().vocab_size + 2) * 4 + max_inputs(config) * 4;
}

// Decode steps are alike: on a device that records them they are padded to a few sizes, recorded or not, so that both give the same bits.
bool Executor::is_recordable(std::span<const StepPart> parts) const {
  return ops_.records() && context_.observer == nullptr &&
         std::all_of(parts.begin(), parts.end(), [](const StepPart& part) { return part.num_tokens() == 1; });
}

void Executor::forward(std::span<const StepPart> parts) {
  if (followers_) followers_->send_forward(parts);
  const bool is_padded = is_recordable(parts);
  const Batch batch = upload_batch(parts, is_padded);
  arena_.reset();
  hidden_ = arena_.take(ops_.activation_dtype(), {batch.num_tokens, model_.config().hidden_size});
  padded_rows_ = is_padded && batch.num_seqs <= max_logit_rows_ ? batch.num_seqs : 0;
  has_logits_ = config_.heads_in_step && padded_rows_ > 0;
  if (is_padded && !config_.enforce_eager) {
    const std::uint64_t key = static_cast<std::uint64_t>(batch.num_seqs) << 32 | static_cast<std::uint64_t>(batch.block_table.size(1));
    ops_.run_recorded(key, [this, &batch] { run_layers(batch); });
  } else {
    run_layers(batch);
  }
}

void Executor::run_layers(const Batch& batch) {
  if (config_.runs_ahead) ops_.take_tokens(batch.token_ids, drawn_rows_, drawn_.view);
  model_.embed(context_, batch, hidden_);
  for (std::int64_t i = 0; i < model_.config().num_layers; ++i) model_.layer(context_, i, kv_, batch, hidden_);
  if (has_logits_) model_.head(context_, hidden_, logits_.view.rows(0, padded_rows_));
}

Tensor Executor::logits(std::span<const std::int32_t> rows) {
  if (followers_) followers_->send_logits(rows);
  const std::int64_t num_rows = std::ssize(rows);
  check(num_rows <= max_logit_rows_, "Executor::logits of more rows than max_logit_rows");
  const bool is_first = std::exchange(has_logits_, false);  // whoever samples them writes into them
  if (is_first && is_one_after_the_other(rows)) return logits_.view.rows(0, num_rows);
  const std::span<const std::int32_t> all = padded(rows);
  const std::int64_t num_all = std::ssize(all);
  const Arena::Scope scope(arena_);
  const Tensor indices = logit_rows_.view.rows(0, num_all);
  ops_.upload(indices, Tensor(const_cast<std::int32_t*>(all.data()), DType::i32, {num_all}));
  const Tensor wanted = arena_.take(ops_.activation_dtype(), {num_all, model_.config().hidden_size});
  ops_.gather_rows(wanted, hidden_, indices);
  model_.head(context_, wanted, logits_.view.rows(0, num_all));
  return logits_.view.rows(0, num_rows);
}

// A padded step's head has as many rows as the step, because a device's products depend on their number.
std::span<const std::int32_t> Executor::padded(std::span<const std::int32_t> rows) {
  if (std::ssize(rows) >= padded_rows_) return rows;
  rows_.assign(rows.begin(), rows.end());
  rows_.resize(static_cast<std::size_t>(padded_rows_), 0);
  return rows_;
}

// The next `count` integers of the host copy; each section begins at an aligned offset.
std::span<std::int32_t> Executor::stage(std::int64_t count) {
  const auto needed = static_cast<std::size_t>(aligned(count));
  check(num_staged_ + needed <= inputs_.size(), "a step has more tokens or sequences than the executor was built for");
  const std::span<std::int32_t> section(inputs_.data() + num_staged_, static_cast<std::size_t>(count));
  num_staged_ += needed;
  return section;
}

// Padding sequences hold one token each, which is written nowhere and sees one slot of block 0; nobody reads what becomes of it.
Batch Executor::upload_batch(std::span<const StepPart> parts, bool is_padded) {
  Batch batch;
  batch.num_seqs = std::ssize(parts);
  std::int64_t width = 1;  // of the block table
  for (const StepPart& part : parts) {
    const std::int64_t count = part.num_tokens();
    if (count == 1 && batch.num_tokens == batch.num_decodes) ++batch.num_decodes;
    batch.num_tokens += count;
    batch.max_query_len = std::max(batch.max_query_len, count);
    batch.max_context_len = std::max(batch.max_context_len, part.begin + count);
    width = std::max(width, std::ssize(part.blocks));
  }
  if (is_padded) {
    batch.num_seqs = batch.num_tokens = bucket_of_sequences(std::ssize(parts), config_.max_num_seqs);
    width = bucket_of_blocks(width, max_blocks_per_sequence(config_));
    batch.max_context_len = width * config_.block_size;
  }

  num_staged_ = 0;
  const auto token_ids = stage(batch.num_tokens);
  const auto positions = stage(batch.num_tokens);
  const auto slots = stage(batch.num_tokens);
  const auto drawn_rows = stage(config_.runs_ahead ? batch.num_tokens : 0);
  std::fill(drawn_rows.begin(), drawn_rows.end(), -1);
  const auto query_start = stage(batch.num_seqs + 1);
  const auto context_len = stage(batch.num_seqs);
  const auto block_table = stage(batch.num_seqs * width);
  std::fill(block_table.begin(), block_table.end(), 0);

  std::size_t token = 0;
  query_start[0] = 0;
  for (std::size_t s = 0; s < parts.size(); ++s) {
    const StepPart& part = parts[s];
    const std::span<const std::int32_t> table = part.blocks;
    const std::int64_t end = part.begin + part.num_tokens();
    check(end <= std::ssize(table) * config_.block_size, "a step computes tokens that no block was reserved for");
    for (std::int64_t position = part.begin; position < end; ++position, ++token) {
      const auto index = static_cast<std::size_t>(position - part.begin);
      if (index < part.tokens.size()) {
        token_ids[token] = part.tokens[index];
      } else {
        token_ids[token] = 0;
        drawn_rows[token] = part.last_row;
      }
      positions[token] = static_cast<std::int32_t>(position);
      const std::int64_t block = table[static_cast<std::size_t>(position / config_.block_size)];
      slots[token] = static_cast<std::int32_t>(block * config_.block_size + position % config_.block_size);
    }
    query_start[s + 1] = static_cast<std::int32_t>(token);
    context_len[s] = static_cast<std::int32_t>(end);
    std::copy(table.begin(), table.end(), block_table.begin() + static_cast<std::ptrdiff_t>(s) * width);
  }
  for (std::size_t s = parts.size(); s < static_cast<std::size_t>(batch.num_seqs); ++s, ++token) {
    token_ids[token] = positions[token] = 0;
    slots[token] = -1;
    query_start[s + 1] = static_cast<std::int32_t>(token + 1);
    context_len[s] = 1;
  }

  const auto total = static_cast<std::int64_t>(num_staged_);
  ops_.upload(device_inputs_.view.rows(0, total), Tensor(inputs_.data(), DType::i32, {total}));
  const auto on_device = [&](std::span<const std::int32_t> section) {
    const std::int64_t offset = section.data() - inputs_.data();
    return device_inputs_.view.rows(offset, offset + std::ssize(section));
  };
  batch.token_ids = on_device(token_ids);
  batch.positions = on_device(positions);
  batch.slots = on_device(slots);
  drawn_rows_ = on_device(drawn_rows);
  batch.query_start = on_device(query_start);
  batch.context_len = on_device(context_len);
  batch.block_table = on_device(block_table).reshape({batch.num_seqs, width});
  return batch;
}

}  // namespace gossamer
