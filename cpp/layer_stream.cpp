#include "layer_stream.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "core/error.h"

namespace gossamer {

namespace {

constexpr std::int64_t kBlockSize = 16;
constexpr std::int64_t kMaxSequences = 256;  // of one call
constexpr std::int64_t kSectionAlign = static_cast<std::int64_t>(kAlignment / sizeof(std::int32_t));
constexpr std::int64_t kEmbedding = -1;  // what Loaded::layer says besides a layer's index
constexpr std::int64_t kHead = -2;

std::int64_t blocks_of(std::int64_t length) { return (length + kBlockSize - 1) / kBlockSize; }
std::int64_t aligned(std::int64_t count) { return (count + kSectionAlign - 1) / kSectionAlign * kSectionAlign; }

// "model.layers.7.self_attn.q_proj.weight" → 7; kEmbedding for a name outside the layers.
std::int64_t layer_of(const std::string& name) {
  constexpr std::string_view kMark = "layers.";
  const std::size_t at = name.find(kMark);
  if (at == std::string::npos) return kEmbedding;
  std::int64_t layer = 0;
  std::size_t i = at + kMark.size();
  if (i >= name.size() || name[i] < '0' || name[i] > '9') return kEmbedding;
  for (; i < name.size() && name[i] >= '0' && name[i] <= '9'; ++i) layer = 10 * layer + (name[i] - '0');
  return layer;
}

void convert(ThreadPool& pool, const Tensor& out, const Tensor& in) {
  visit_floating(in.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      pool.parallel_for(in.numel(), std::int64_t{1} << 16, [&](std::int64_t begin, std::int64_t end) {
        std::transform(in.data<const In>() + begin, in.data<const In>() + end, out.data<Out>() + begin,
                       [](In value) { return from_float<Out>(to_float(value)); });
      });
    });
  });
}

class CaptureObserver final : public LinearObserver {
 public:
  CaptureObserver(Allocator& host, ThreadPool& pool, const Tensor& every_row, Capture& out)
      : host_(host), pool_(pool), every_row_(every_row), out_(out) {}

  void observe(std::span<const std::string> weight_names, Ops& ops, const Tensor& input) override {
    const auto is_wanted = [&](const std::string& name) { return out_.names.contains(name); };
    if (!out_.names.empty() && std::none_of(weight_names.begin(), weight_names.end(), is_wanted)) return;
    out_.inputs.push_back(
        {{weight_names.begin(), weight_names.end()}, out_.on_device ? copy_on_device(ops, input) : copy_to_host(ops, input)});
  }

 private:
  OwnedTensor copy_on_device(Ops& ops, const Tensor& input) {
    OwnedTensor copy(ops.allocator(), input.dtype(), {input.size(0), input.size(1)});
    ops.gather_rows(copy.view, input, every_row_.rows(0, input.size(0)));
    return copy;
  }

  OwnedTensor copy_to_host(Ops& ops, const Tensor& input) {
    OwnedTensor raw(host_, input.dtype(), {input.size(0), input.size(1)});
    ops.download(raw.view, input);
    if (input.dtype() == DType::f32) return raw;
    OwnedTensor values(host_, DType::f32, {input.size(0), input.size(1)});
    convert(pool_, values.view, raw.view);
    return values;
  }

  Allocator& host_;
  ThreadPool& pool_;
  Tensor every_row_;
  Capture& out_;
};

KvCacheShape one_layer(KvCacheShape shape, std::int64_t max_tokens) {
  shape.num_layers = 1;
  shape.block_size = kBlockSize;
  shape.num_blocks = blocks_of(max_tokens) + kMaxSequences;  // the last block of each sequence may be partial
  return shape;
}

}  // namespace

struct LayerStream::Loaded {
  Loaded(std::unique_ptr<Model> loaded, Ops& ops, std::int64_t max_tokens, std::int64_t loaded_layer)
      : model(std::move(loaded)),
        layer(loaded_layer),
        kv(ops.allocator(), one_layer(model->kv_shape(), max_tokens)),
        arena(ops.allocator(), model->arena_bytes(max_tokens, loaded_layer < 0 ? max_tokens : 1)) {}

  std::unique_ptr<Model> model;
  std::int64_t layer;
  KvCache kv;
  Arena arena;
};

LayerStream::LayerStream(const std::string& path, const DeviceOptions& device, std::int64_t max_tokens, std::int64_t max_length)
    : ops_(make_ops(device, host_)),
      comm_(make_single_communicator()),
      pool_(device.num_threads),
      checkpoint_(Checkpoint::open(path)),
      config_(parse_model_config(checkpoint_.side_file("config.json"), checkpoint_.side_file("generation_config.json"))),
      max_tokens_(max_tokens),
      max_length_(max_length) {
  require(max_tokens >= 1, "max_tokens must be at least 1, not " + std::to_string(max_tokens));
  require(max_length >= 1 && max_length <= config_.max_positions, "max_length must be between 1 and the model's context of " +
                                                                      std::to_string(config_.max_positions) + " tokens, not " +
                                                                      std::to_string(max_length));
  const std::int64_t count =
      3 * aligned(max_tokens) + aligned(kMaxSequences + 1) + aligned(kMaxSequences) + aligned(kMaxSequences * blocks_of(max_length));
  inputs_.resize(static_cast<std::size_t>(count));
  device_inputs_ = OwnedTensor(ops_->allocator(), DType::i32, {count});
  hidden_ = OwnedTensor(ops_->allocator(), ops_->activation_dtype(), {max_tokens, config_.hidden_size});
  staging_ = OwnedTensor(host_, ops_->activation_dtype(), {max_tokens, config_.hidden_size});
  std::vector<std::int32_t> rows(static_cast<std::size_t>(max_tokens));
  std::iota(rows.begin(), rows.end(), 0);
  every_row_ = OwnedTensor(ops_->allocator(), DType::i32, {max_tokens});
  ops_->upload(every_row_.view, Tensor(rows.data(), DType::i32, {max_tokens}));
}

LayerStream::~LayerStream() = default;

void LayerStream::load(std::function<bool(const std::string&)> select, const std::map<std::string, Tensor>& replacements,
                       std::int64_t layer) {
  loaded_.reset();
  LoadOptions options{.max_positions = max_length_, .select = std::move(select), .replacements = replacements};
  loaded_ = std::make_unique<Loaded>(load_model(checkpoint_, *ops_, *comm_, pool_, options), *ops_, max_tokens_, layer);
}

void LayerStream::load_embedding() {
  load([](const std::string& name) { return layer_of(name) == kEmbedding && !name.starts_with("lm_head."); }, {}, kEmbedding);
}

void LayerStream::load_head() {
  load([](const std::string& name) { return layer_of(name) == kEmbedding; }, {}, kHead);
}

void LayerStream::load_layer(std::int64_t layer, const std::map<std::string, Tensor>& replacements) {
  require(layer >= 0 && layer < config_.num_layers,
          "layer must be between 0 and " + std::to_string(config_.num_layers - 1) + ", not " + std::to_string(layer));
  for (const auto& [name, weight] : replacements) {
    const auto found = checkpoint_.manifest().tensors.find(name);
    require(found != checkpoint_.manifest().tensors.end() && layer_of(name) == layer,
            "a replacement must be a weight of layer " + std::to_string(layer) + ", not '" + printable(name) + "'");
    const std::vector<std::int64_t>& shape = found->second.shape;
    require(shape.size() == 2 && weight.rank() == 2 && weight.size(0) == shape[0] && weight.size(1) == shape[1],
            "the replacement of '" + printable(name) + "' must have its shape, and is " + weight.to_string());
  }
  load([layer](const std::string& name) { return layer_of(name) == layer; }, replacements, layer);
}

LayerStream::Loaded& LayerStream::loaded(std::int64_t layer) {
  require(loaded_ != nullptr && (layer >= 0 ? loaded_->layer >= 0 : loaded_->layer == layer),
          "load the embedding, a layer or the head first: what is loaded now is another part of the model");
  return *loaded_;
}

void LayerStream::check_tokens(std::int64_t count, std::int64_t longest) const {
  require(count >= 1 && count <= max_tokens_,
          "a call takes 1 to max_tokens = " + std::to_string(max_tokens_) + " tokens, not " + std::to_string(count));
  require(longest <= max_length_, "a sequence has " + std::to_string(longest) + " tokens; max_length is " + std::to_string(max_length_));
}

// Sequence after sequence, each at the beginning of blocks of its own.
Batch LayerStream::make_batch(std::span<const std::int64_t> lengths, std::span<const std::int32_t> token_ids) {
  require(std::ssize(lengths) <= kMaxSequences, "a call takes at most " + std::to_string(kMaxSequences) + " sequences");
  std::int64_t tokens = 0;
  std::int64_t longest = 0;
  for (const std::int64_t length : lengths) {
    require(length >= 1, "a sequence must have at least one token");
    tokens += length;
    longest = std::max(longest, length);
  }
  check_tokens(tokens, longest);
  const std::int64_t num_seqs = std::ssize(lengths);
  const std::int64_t width = blocks_of(longest);
  std::int64_t used = 0;
  const auto stage = [&](std::int64_t count) {
    const std::int64_t offset = used;
    used += aligned(count);
    return offset;
  };
  const std::int64_t ids = stage(tokens), positions = stage(tokens), slots = stage(tokens), starts = stage(num_seqs + 1),
                     contexts = stage(num_seqs), table = stage(num_seqs * width);
  check(used <= std::ssize(inputs_), "LayerStream: a batch larger than its buffers");
  std::int32_t* at = inputs_.data();
  std::int64_t token = 0;
  std::int64_t block = 0;
  std::copy(token_ids.begin(), token_ids.end(), at + ids);
  at[starts] = 0;
  for (std::int64_t s = 0; s < num_seqs; ++s) {
    const std::int64_t length = lengths[static_cast<std::size_t>(s)];
    for (std::int64_t position = 0; position < length; ++position, ++token) {
      at[positions + token] = static_cast<std::int32_t>(position);
      at[slots + token] = static_cast<std::int32_t>(block * kBlockSize + position);
    }
    at[starts + s + 1] = static_cast<std::int32_t>(token);
    at[contexts + s] = static_cast<std::int32_t>(length);
    const std::int64_t count = blocks_of(length);
    for (std::int64_t b = 0; b < width; ++b) at[table + s * width + b] = static_cast<std::int32_t>(b < count ? block + b : 0);
    block += count;
  }
  ops_->upload(device_inputs_.view.rows(0, used), Tensor(inputs_.data(), DType::i32, {used}));
  const auto section = [&](std::int64_t offset, std::int64_t count) { return device_inputs_.view.rows(offset, offset + count); };
  Batch batch;
  batch.num_tokens = tokens;
  batch.num_seqs = num_seqs;
  batch.max_query_len = batch.max_context_len = longest;
  if (!token_ids.empty()) batch.token_ids = section(ids, tokens);
  batch.positions = section(positions, tokens);
  batch.slots = section(slots, tokens);
  batch.query_start = section(starts, num_seqs + 1);
  batch.context_len = section(contexts, num_seqs);
  batch.block_table = section(table, num_seqs * width).reshape({num_seqs, width});
  return batch;
}

Tensor LayerStream::to_device(const Tensor& hidden) {
  const Tensor staged = staging_.view.rows(0, hidden.size(0));
  const Tensor device = hidden_.view.rows(0, hidden.size(0));
  convert(pool_, staged, hidden);
  ops_->upload(device, staged);
  return device;
}

void LayerStream::to_host(const Tensor& out, const Tensor& device) {
  const Tensor staged = staging_.view.rows(0, out.size(0));
  ops_->download(staged, device);
  convert(pool_, out, staged);
}

void LayerStream::embed(std::span<const std::vector<std::int32_t>> sequences, const Tensor& hidden) {
  Loaded& now = loaded(kEmbedding);
  std::vector<std::int64_t> lengths;
  std::vector<std::int32_t> ids;
  for (const std::vector<std::int32_t>& sequence : sequences) {
    lengths.push_back(std::ssize(sequence));
    for (const std::int32_t id : sequence) {
      require(id >= 0 && id < config_.vocab_size, "token id " + std::to_string(id) + " is not in the vocabulary");
      ids.push_back(id);
    }
  }
  const Batch batch = make_batch(lengths, ids);
  check(hidden.size(0) == batch.num_tokens && hidden.size(1) == config_.hidden_size, "LayerStream::embed: hidden has the wrong shape");
  now.arena.reset();
  ExecContext context{*ops_, *comm_, now.arena};
  const Tensor device = hidden_.view.rows(0, batch.num_tokens);
  now.model->embed(context, batch, device);
  to_host(hidden, device);
}

void LayerStream::run_layer(std::span<const std::int64_t> lengths, const Tensor& hidden, Capture* capture, LayerPart part) {
  Loaded& now = loaded(0);
  const Batch batch = make_batch(lengths);
  require(hidden.size(0) == batch.num_tokens && hidden.size(1) == config_.hidden_size,
          "hidden must be [" + std::to_string(batch.num_tokens) + ", " + std::to_string(config_.hidden_size) + "], and is " +
              hidden.to_string());
  now.arena.reset();
  std::optional<CaptureObserver> observer;
  if (capture != nullptr) observer.emplace(host_, pool_, every_row_.view, *capture);
  ExecContext context{*ops_, *comm_, now.arena, observer ? &*observer : nullptr};
  const Tensor device = to_device(hidden);
  if (part != LayerPart::mlp) now.model->attention(context, now.layer, now.kv, batch, device);
  if (part != LayerPart::attention) now.model->mlp(context, now.layer, device);
  to_host(hidden, device);
}

void LayerStream::head(const Tensor& hidden, const Tensor& logits) {
  Loaded& now = loaded(kHead);
  check_tokens(hidden.size(0), 0);
  require(hidden.size(1) == config_.hidden_size, "hidden must have " + std::to_string(config_.hidden_size) + " columns");
  check(logits.size(0) == hidden.size(0) && logits.size(1) == config_.vocab_size, "LayerStream::head: logits has the wrong shape");
  now.arena.reset();
  ExecContext context{*ops_, *comm_, now.arena};
  const Tensor device = to_device(hidden);
  if (ops_->device().kind == Device::Kind::cpu) {
    now.model->head(context, device, logits);
    return;
  }
  const OwnedTensor out(ops_->allocator(), DType::f32, {logits.size(0), logits.size(1)});
  now.model->head(context, device, out.view);
  ops_->download(logits, out.view);
}

}  // namespace gossamer
