#include "model/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "model/rope.h"

namespace gossamer {
namespace {

constexpr std::int64_t kBandBytes = std::int64_t{64} << 20;  // of a column shard's rows, read at a time

void convert_row(const Tensor& out, const Tensor& in) {
  visit_floating(in.dtype(), [&](auto in_tag) {
    using In = typename decltype(in_tag)::type;
    visit_floating(out.dtype(), [&](auto out_tag) {
      using Out = typename decltype(out_tag)::type;
      std::transform(in.data<const In>(), in.data<const In>() + in.numel(), out.data<Out>(),
                     [](In value) { return from_float<Out>(to_float(value)); });
    });
  });
}

// Host tensors of one shape; in may have any row stride.
void copy_matrix(const Tensor& out, const Tensor& in, ThreadPool& pool) {
  pool.parallel_for(in.size(0), 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Tensor from = in.select(0, row);
      const Tensor to = out.select(0, row);
      if (in.dtype() == out.dtype()) {
        std::memcpy(to.raw(), from.raw(), static_cast<std::size_t>(from.nbytes()));
      } else {
        convert_row(to, from);
      }
    }
  });
}

OwnedSparseWeight stack(const std::vector<OwnedSparseWeight>& bands, Allocator& allocator) {
  std::vector<SparseWeight> views;
  for (const OwnedSparseWeight& band : bands) views.push_back(band.view);
  return concat_rows(views, allocator);
}

OwnedScaledMatrix stack(const std::vector<OwnedScaledMatrix>& bands, Allocator& allocator) {
  std::vector<ScaledMatrix> views;
  for (const OwnedScaledMatrix& band : bands) views.push_back(band.view);
  return stack_rows(views, allocator);
}

}  // namespace

struct WeightLoader::Part {
  enum class Form { dense, scaled, sparse };
  Form form = Form::dense;
  OwnedTensor dense;
  OwnedScaledMatrix scaled;
  OwnedSparseWeight bitmap;  // of floating or scaled values

  static Form form_of(const TensorRecord& record) {
    if (record.encoding == TensorRecord::Encoding::bitmap) return Form::sparse;
    return is_scaled(record.dtype) ? Form::scaled : Form::dense;
  }
  bool is_sparse() const { return form == Form::sparse; }
  DType dtype() const { return is_sparse() ? bitmap.view.dtype() : form == Form::scaled ? scaled.view.dtype() : dense.view.dtype(); }
  std::int64_t group() const { return is_sparse() ? bitmap.view.group : form == Form::scaled ? scaled.view.group : 0; }
  std::int64_t rows() const { return is_sparse() ? bitmap.view.rows : form == Form::scaled ? scaled.view.rows() : dense.view.size(0); }
  std::int64_t cols() const { return is_sparse() ? bitmap.view.cols : form == Form::scaled ? scaled.view.cols() : dense.view.size(1); }
};

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
      stats_.sparse_zeros += elements - record.nnz;
    }
    bytes_total_ += stored_bytes(record);
  }
}

void WeightLoader::expect(const std::string& name, std::vector<std::int64_t> shape) { expected_.emplace(name, std::move(shape)); }

void WeightLoader::report_progress(const TensorRecord& record) {
  bytes_done_ += stored_bytes(record);
  if (options_.progress) options_.progress(bytes_done_, bytes_total_);
}

WeightLoader::Range WeightLoader::own_range(std::int64_t total, std::int64_t parts) const {
  const std::int64_t size = total / parts;
  const std::int64_t begin = comm_.rank() * parts / comm_.size() * size;
  return {begin, begin + size};
}

WeightLoader::Part WeightLoader::read_rows(const std::string& name, Range rows) {
  const TensorRecord& record = checkpoint_->manifest().tensors.at(name);
  Part part;
  if (const auto replacement = options_.replacements.find(name); replacement != options_.replacements.end()) {
    part.dense = OwnedTensor(host_, replacement->second.dtype(), {rows.end - rows.begin, record.shape[1]});
    copy_matrix(part.dense.view, replacement->second.rows(rows.begin, rows.end), pool_);
    return part;
  }
  part.form = Part::form_of(record);
  if (part.is_sparse()) {
    part.bitmap = checkpoint_->read_sparse_rows(name, rows.begin, rows.end, host_, pool_);
  } else if (part.form == Part::Form::scaled) {
    part.scaled = checkpoint_->read_scaled_rows(name, rows.begin, rows.end, host_, pool_);
  } else {
    part.dense = checkpoint_->read_dense_rows(name, rows.begin, rows.end, host_, pool_);
  }
  report_progress(record);
  return part;
}

// A column range touches every chunk of the file: it is read and verified in bands of rows, of which this rank's columns are kept.
WeightLoader::Part WeightLoader::read_cols(const std::string& name, Range cols) {
  const TensorRecord& record = checkpoint_->manifest().tensors.at(name);
  const std::int64_t rows = record.shape[0];
  const std::int64_t all = record.shape[1];
  const std::int64_t band = std::max<std::int64_t>(1, kBandBytes / bytes_of(record.dtype, all));
  Part part;
  part.form = Part::form_of(record);
  if (part.form == Part::Form::dense) part.dense = OwnedTensor(host_, record.dtype, {rows, cols.end - cols.begin});
  std::vector<OwnedSparseWeight> kept;
  std::vector<OwnedScaledMatrix> kept_scaled;
  for (std::int64_t begin = 0; begin < rows; begin += band) {
    const std::int64_t end = std::min(rows, begin + band);
    if (part.is_sparse()) {
      const OwnedSparseWeight whole = checkpoint_->read_sparse_rows(name, begin, end, host_, pool_);
      kept.push_back(slice_cols(whole.view, cols.begin, cols.end, host_));
    } else if (part.form == Part::Form::scaled) {
      const OwnedScaledMatrix whole = checkpoint_->read_scaled_rows(name, begin, end, host_, pool_);
      const ScaledMatrix own = column_slice(whole.view, cols.begin, cols.end);
      kept_scaled.push_back(stack_rows({own}, host_));
    } else {
      const OwnedTensor whole = checkpoint_->read_dense_rows(name, begin, end, host_, pool_);
      copy_matrix(part.dense.view.rows(begin, end), whole.view.slice(1, cols.begin, cols.end), pool_);
    }
  }
  if (part.is_sparse()) part.bitmap = stack(kept, host_);
  if (part.form == Part::Form::scaled) part.scaled = stack(kept_scaled, host_);
  report_progress(record);
  return part;
}

// Scaled values become f32, which holds what they stand for.
OwnedTensor WeightLoader::plain(Part part) {
  if (part.form == Part::Form::dense) return std::move(part.dense);
  OwnedTensor dense(host_, is_scaled(part.dtype()) ? DType::f32 : part.dtype(), {part.rows(), part.cols()});
  if (part.is_sparse()) {
    sparse_to_dense(part.bitmap.view, dense.view);
  } else {
    scaled_to_dense(part.scaled.view, dense.view);
  }
  return dense;
}

OwnedTensor WeightLoader::read_plain(const std::string& name) {
  const TensorRecord& record = checkpoint_->manifest().tensors.at(name);
  if (record.shape.size() == 2) return plain(read_rows(name, {0, record.shape[0]}));
  OwnedTensor vector = checkpoint_->read_dense(name, host_, pool_);
  report_progress(record);
  return vector;
}

// Parts of one encoding are stacked as they are; a mixture becomes sparse. Different dtypes or scale groups meet in f32, which holds all of
// them.
std::unique_ptr<PackedWeight> WeightLoader::pack(std::vector<Part>& parts) {
  const bool same = std::all_of(parts.begin(), parts.end(),
                                [&](const Part& part) { return part.dtype() == parts[0].dtype() && part.group() == parts[0].group(); });
  const bool any_sparse = std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.is_sparse(); });
  for (Part& part : parts) {
    if (!same) to_float32(part);
    if (any_sparse) to_sparse(part);
  }
  if (any_sparse) {
    if (parts.size() == 1) return ops_.pack(parts[0].bitmap.view);
    std::vector<SparseWeight> views;
    for (const Part& part : parts) views.push_back(part.bitmap.view);
    return ops_.pack(concat_rows(views, host_).view);
  }
  if (is_scaled(parts[0].dtype())) {
    if (parts.size() == 1) return ops_.pack(parts[0].scaled.view);
    std::vector<ScaledMatrix> views;
    for (const Part& part : parts) views.push_back(part.scaled.view);
    return ops_.pack(stack_rows(views, host_).view);
  }
  if (parts.size() == 1) return ops_.pack(parts[0].dense.view);
  std::int64_t rows = 0;
  for (const Part& part : parts) rows += part.rows();
  const OwnedTensor stacked(host_, parts[0].dtype(), {rows, parts[0].cols()});
  rows = 0;
  for (const Part& part : parts) {
    copy_matrix(stacked.view.rows(rows, rows + part.rows()), part.dense.view, pool_);
    rows += part.rows();
  }
  return ops_.pack(stacked.view);
}

void WeightLoader::to_float32(Part& part) {
  if (part.dtype() == DType::f32) return;
  if (part.is_sparse() && is_floating(part.dtype())) {
    const std::int64_t nnz = part.bitmap.view.nnz();
    Buffer values(host_, static_cast<std::size_t>(nnz) * sizeof(float));
    const Tensor converted = values.view(DType::f32, {nnz});
    convert_row(converted, part.bitmap.view.values);
    part.bitmap.values = std::move(values);
    part.bitmap.view.values = converted;
    return;
  }
  const bool was_sparse = part.is_sparse();
  Part whole;
  whole.dense = plain(std::move(part));
  if (whole.dtype() != DType::f32) {
    OwnedTensor converted(host_, DType::f32, {whole.rows(), whole.cols()});
    copy_matrix(converted.view, whole.dense.view, pool_);
    whole.dense = std::move(converted);
  }
  part = std::move(whole);
  if (was_sparse) to_sparse(part);
}

void WeightLoader::to_sparse(Part& part) {
  if (part.is_sparse()) return;
  part.bitmap = part.form == Part::Form::scaled ? sparse_from_scaled(part.scaled.view, host_) : sparse_from_dense(part.dense.view, host_);
  part.dense = {};
  part.scaled = {};
  part.form = Part::Form::sparse;
}

Linear WeightLoader::linear(const LinearSpec& spec) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) {
    names.push_back(spec.modules[i] + ".weight");
    expect(names.back(), {spec.rows[i], spec.cols});
    if (spec.bias) expect(spec.modules[i] + ".bias", {spec.rows[i]});
  }
  if (planning() || !is_selected(names.front())) return {};
  if (is_random()) return random_linear(spec, std::move(names));
  std::vector<Part> parts;
  for (std::size_t i = 0; i < names.size(); ++i) {
    parts.push_back(spec.shard == Shard::cols && comm_.size() > 1 ? read_cols(names[i], own_range(spec.cols, comm_.size()))
                                                                  : read_rows(names[i], own_rows(spec, i)));
  }
  std::unique_ptr<PackedWeight> weight = pack(parts);
  count_resident(weight->nbytes());
  return Linear(std::move(weight), spec.bias ? bias(spec) : OwnedTensor(), spec.shard, std::move(names));
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
  if (planning() || !is_selected(name)) return {};
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
  if (planning() || !is_selected(name)) return {};
  if (is_random()) return random_table(rows, cols);
  const OwnedTensor stored = read_plain(name);
  return to_device(stored.view);
}

Vocabulary WeightLoader::vocabulary(const std::string& embedding_module, const std::string& head_module, const ModelConfig& config) {
  const std::string name = embedding_module + ".weight";
  const std::int64_t width = config.word_embed_proj_dim;
  const LinearSpec head{.modules = {head_module}, .rows = {config.vocab_size}, .cols = width, .shard = Shard::rows};
  expect(name, {config.vocab_size, width});
  Vocabulary vocabulary;
  if (planning()) {
    if (!config.tie_word_embeddings) linear(head);
    return vocabulary;
  }
  if (!is_selected(name)) return vocabulary;
  if (is_random()) return random_vocabulary(head, config);
  const Range own = own_range(config.vocab_size, comm_.size());
  vocabulary.row_begin = own.begin;
  std::vector<Part> mine(1);
  mine[0] = read_rows(name, own);
  if (config.tie_word_embeddings) {
    if (mine[0].is_sparse()) mine[0].dense = plain(std::move(mine[0])), mine[0].form = Part::Form::dense;
    std::unique_ptr<PackedWeight> weight = pack(mine);
    count_resident(weight->nbytes());
    vocabulary.table = weight->table();
    vocabulary.head = Linear(std::move(weight), {}, Shard::rows, {name});
  }
  if (!vocabulary.table.defined()) {
    vocabulary.own_table = to_device(plain(std::move(mine[0])).view);
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
