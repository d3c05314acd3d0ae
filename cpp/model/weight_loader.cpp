#include "model/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "model/rope.h"

namespace gossamer {
namespace {

constexpr std::int64_t kBandBytes = std::int64_t{64} << 20;  // of a column shard's rows, read at a time

OwnedSparseWeight stack(const std::vector<OwnedSparseWeight>& bands, Allocator& allocator, ThreadPool& pool) {
  std::vector<SparseWeight> views;
  for (const OwnedSparseWeight& band : bands) views.push_back(band.view);
  return concat_rows(views, allocator, pool);
}

OwnedScaledMatrix stack(const std::vector<OwnedScaledMatrix>& bands, Allocator& allocator) {
  std::vector<ScaledMatrix> views;
  for (const OwnedScaledMatrix& band : bands) views.push_back(band.view);
  return stack_rows(views, allocator);
}

}  // namespace

WeightLoader::WeightLoader(Mode mode, const Checkpoint& checkpoint, Ops& ops, Communicator& comm, ThreadPool& pool,
                           const LoadOptions& options)
    : mode_(mode), checkpoint_(&checkpoint), ops_(ops), comm_(comm), pool_(pool), options_(options) {
  if (planning()) return;
  for (const auto& [name, record] : checkpoint.manifest().tensors) {
    const std::int64_t elements =
        std::accumulate(record.shape.begin(), record.shape.end(), std::int64_t{1}, [](std::int64_t a, std::int64_t b) { return a * b; });
    stats_.num_parameters += elements;
    if (record.encoding == TensorRecord::Encoding::bitmap) {
      stats_.sparse_elements += elements;
      stats_.sparse_zeros += std::max<std::int64_t>(0, elements - record.nnz);  // i4 stores a value more in some rows
    }
    bytes_total_ += stored_bytes(record);
  }
}

void WeightLoader::expect(const std::string& name, std::vector<std::int64_t> shape) { expected_.emplace(name, std::move(shape)); }

void WeightLoader::plan_read(const std::string& name, Range rows) {
  if (!options_.replacements.contains(name)) reads_.push_back({name, rows.begin, rows.end});
}

void WeightLoader::report_progress(const TensorRecord& record) {
  bytes_done_ += stored_bytes(record);
  if (options_.progress) options_.progress(bytes_done_, bytes_total_);
}

WeightLoader::Range WeightLoader::own_range(std::int64_t total, std::int64_t parts) const {
  const std::int64_t size = total / parts;
  const std::int64_t begin = comm_.rank() * parts / comm_.size() * size;
  return {begin, begin + size};
}

WeightPart WeightLoader::read_rows(const std::string& name, Range rows) {
  const TensorRecord& record = checkpoint_->manifest().tensors.at(name);
  WeightPart part;
  if (const auto replacement = options_.replacements.find(name); replacement != options_.replacements.end()) {
    part.dense = OwnedTensor(host_, replacement->second.dtype(), {rows.end - rows.begin, record.shape[1]});
    copy_matrix(part.dense.view, replacement->second.rows(rows.begin, rows.end), pool_);
    return part;
  }
  part.form = WeightPart::form_of(record);
  if (part.is_sparse()) {
    part.bitmap = checkpoint_->read_sparse_rows(name, rows.begin, rows.end, host_, pool_);
  } else if (part.form == WeightPart::Form::scaled) {
    part.scaled = checkpoint_->read_scaled_rows(name, rows.begin, rows.end, host_, pool_);
  } else {
    part.dense = checkpoint_->read_dense_rows(name, rows.begin, rows.end, host_, pool_);
  }
  report_progress(record);
  return part;
}

// A column range touches every chunk of the file: it is read and verified in bands of rows, of which this rank's columns are kept.
WeightPart WeightLoader::read_cols(const std::string& name, Range cols) {
  const TensorRecord& record = checkpoint_->manifest().tensors.at(name);
  const std::int64_t rows = record.shape[0];
  const std::int64_t all = record.shape[1];
  const std::int64_t band = std::max<std::int64_t>(1, kBandBytes / bytes_of(record.dtype, all));
  WeightPart part;
  part.form = WeightPart::form_of(record);
  if (part.form == WeightPart::Form::dense) part.dense = OwnedTensor(host_, record.dtype, {rows, cols.end - cols.begin});
  std::vector<OwnedSparseWeight> kept;
  std::vector<OwnedScaledMatrix> kept_scaled;
  for (std::int64_t begin = 0; begin < rows; begin += band) {
    const std::int64_t end = std::min(rows, begin + band);
    if (part.is_sparse()) {
      const OwnedSparseWeight whole = checkpoint_->read_sparse_rows(name, begin, end, host_, pool_);
      kept.push_back(slice_cols(whole.view, cols.begin, cols.end, host_));
    } else if (part.form == WeightPart::Form::scaled) {
      const OwnedScaledMatrix whole = checkpoint_->read_scaled_rows(name, begin, end, host_, pool_);
      const ScaledMatrix own = column_slice(whole.view, cols.begin, cols.end);
      kept_scaled.push_back(stack_rows({own}, host_));
    } else {
      const OwnedTensor whole = checkpoint_->read_dense_rows(name, begin, end, host_, pool_);
      copy_matrix(part.dense.view.rows(begin, end), whole.view.slice(1, cols.begin, cols.end), pool_);
    }
  }
  if (part.is_sparse()) part.bitmap = stack(kept, host_, pool_);
  if (part.form == WeightPart::Form::scaled) part.scaled = stack(kept_scaled, host_);
  report_progress(record);
  return part;
}

OwnedTensor WeightLoader::read_plain(const std::string& name) {
  const TensorRecord& record = checkpoint_->manifest().tensors.at(name);
  if (record.shape.size() == 2) return plain(read_rows(name, {0, record.shape[0]}), host_);
  OwnedTensor vector = checkpoint_->read_dense(name, host_, pool_);
  report_progress(record);
  return vector;
}

Linear WeightLoader::linear(const LinearSpec& spec) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) {
    names.push_back(spec.modules[i] + ".weight");
    expect(names.back(), {spec.rows[i], spec.cols});
    if (spec.bias) expect(spec.modules[i] + ".bias", {spec.rows[i]});
  }
  if (!is_selected(names.front())) return {};
  if (planning()) {
    plan_linear(spec, names);
    return {};
  }
  if (is_random()) return random_linear(spec, std::move(names));
  std::vector<WeightPart> parts;
  for (std::size_t i = 0; i < names.size(); ++i) {
    parts.push_back(spec.shard == Shard::cols && comm_.size() > 1 ? read_cols(names[i], own_range(spec.cols, comm_.size()))
                                                                  : read_rows(names[i], own_rows(spec, i)));
  }
  std::unique_ptr<PackedWeight> weight = pack_parts(ops_, parts, host_, pool_);
  count_resident(weight->nbytes());
  return Linear(std::move(weight), spec.bias ? bias(spec) : OwnedTensor(), spec.shard, std::move(names));
}

// In the order of linear() and bias(). Columns are cut out of whole rows.
void WeightLoader::plan_linear(const LinearSpec& spec, const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) plan_read(names[i], own_rows(spec, i));
  for (std::size_t i = 0; spec.bias && i < names.size(); ++i) plan_read(spec.modules[i] + ".bias", {0, spec.rows[i]});
}

WeightLoader::Range WeightLoader::own_rows(const LinearSpec& spec, std::size_t module) const {
  const std::int64_t rows = spec.rows[module];
  if (spec.shard != Shard::rows) return {0, rows};
  return own_range(rows, spec.parts.empty() ? comm_.size() : spec.parts[module]);
}

OwnedTensor WeightLoader::bias(const LinearSpec& spec) {
  std::int64_t size = 0;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) size += own_rows(spec, i).end - own_rows(spec, i).begin;
  const OwnedTensor stacked(host_, ops_.activation_dtype(), {size});
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) {
    const OwnedTensor whole = read_plain(spec.modules[i] + ".bias");
    const Tensor own = whole.view.slice(0, own_rows(spec, i).begin, own_rows(spec, i).end);
    convert_row(stacked.view.slice(0, begin, begin + own.size(0)), own);
    begin += own.size(0);
  }
  return to_device(stacked.view);
}

OwnedTensor WeightLoader::to_device(const Tensor& host) {
  OwnedTensor device = host.rank() == 1 ? OwnedTensor(ops_.allocator(), host.dtype(), {host.size(0)})
                                        : OwnedTensor(ops_.allocator(), host.dtype(), {host.size(0), host.size(1)});
  ops_.upload(device.view, host);
  count_resident(host.nbytes());
  return device;
}

OwnedTensor WeightLoader::vector(const std::string& name, std::int64_t size) {
  expect(name, {size});
  if (!is_selected(name)) return {};
  if (planning()) {
    plan_read(name, {0, size});
    return {};
  }
  if (is_random()) return constant(size, name.ends_with(".bias") ? 0.0F : 1.0F);
  const OwnedTensor stored = read_plain(name);
  const OwnedTensor converted(host_, ops_.activation_dtype(), {size});
  convert_row(converted.view, stored.view);
  return to_device(converted.view);
}

OwnedTensor WeightLoader::constant(std::int64_t size, float value) {
  if (planning()) return {};
  const OwnedTensor f32(host_, DType::f32, {size});
  std::fill_n(f32.view.data<float>(), size, value);
  const OwnedTensor converted(host_, ops_.activation_dtype(), {size});
  convert_row(converted.view, f32.view);
  return to_device(converted.view);
}

OwnedTensor WeightLoader::table(const std::string& name, std::int64_t rows, std::int64_t cols) {
  expect(name, {rows, cols});
  if (!is_selected(name)) return {};
  if (planning()) {
    plan_read(name, {0, rows});
    return {};
  }
  if (is_random()) return random_table(rows, cols);
  const OwnedTensor stored = read_plain(name);
  stats_.table_bytes += stored.view.nbytes();
  return to_device(stored.view);
}

Vocabulary WeightLoader::vocabulary(const std::string& embedding_module, const std::string& head_module, const ModelConfig& config) {
  const std::string name = embedding_module + ".weight";
  const std::int64_t width = config.word_embed_proj_dim;
  const LinearSpec head{.modules = {head_module}, .rows = {config.vocab_size}, .cols = width, .shard = Shard::rows};
  expect(name, {config.vocab_size, width});
  Vocabulary vocabulary;
  const Range own = own_range(config.vocab_size, comm_.size());
  if (planning()) {
    if (is_selected(name)) plan_read(name, own);
    if (!config.tie_word_embeddings) linear(head);
    return vocabulary;
  }
  if (!is_selected(name)) return vocabulary;
  if (is_random()) return random_vocabulary(head, config);
  vocabulary.row_begin = own.begin;
  std::vector<WeightPart> mine(1);
  mine[0] = read_rows(name, own);
  if (config.tie_word_embeddings) {
    if (mine[0].is_sparse()) {
      mine[0].dense = plain(std::move(mine[0]), host_);
      mine[0].form = WeightPart::Form::dense;
    }
    std::unique_ptr<PackedWeight> weight = pack_parts(ops_, mine, host_, pool_);
    count_resident(weight->nbytes());
    vocabulary.table = weight->table();
    vocabulary.head = Linear(std::move(weight), {}, Shard::rows, {name});
  }
  if (!vocabulary.table.defined()) {
    const OwnedTensor own_table = plain(std::move(mine[0]), host_);
    vocabulary.own_table = to_device(own_table.view);
    stats_.table_bytes += own_table.view.nbytes();
    vocabulary.table = vocabulary.own_table.view;
  }
  if (!config.tie_word_embeddings) vocabulary.head = linear(head);
  return vocabulary;
}

RopeTables WeightLoader::rope(const ModelConfig& config) {
  RopeTables tables;
  if (planning()) return tables;
  const std::int64_t positions = options_.max_positions > 0 ? std::min(options_.max_positions, config.max_positions) : config.max_positions;
  const std::int64_t half = config.head_dim / 2;
  const OwnedTensor cos(host_, DType::f32, {positions, half});
  const OwnedTensor sin(host_, DType::f32, {positions, half});
  fill_rope_tables(cos.view, sin.view, rope_inverse_frequencies(*config.rope, config.head_dim, config.max_positions),
                   config.rope->attention_factor, pool_);
  const std::int64_t weight_bytes = stats_.weight_bytes;  // tables are not weights
  tables.cos = to_device(cos.view);
  tables.sin = to_device(sin.view);
  stats_.weight_bytes = weight_bytes;
  tables.view = {.cos = tables.cos.view, .sin = tables.sin.view};
  return tables;
}

}  // namespace gossamer
