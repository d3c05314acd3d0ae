#include "model/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "model/rope.h"

namespace gossamer {
namespace {

std::int64_t stored_bytes(const TensorRecord& record) {
  std::int64_t elements = 1;
  for (const std::int64_t size : record.shape) elements *= size;
  const auto value_bytes = static_cast<std::int64_t>(size_of(record.dtype));
  if (record.encoding == TensorRecord::Encoding::dense) return elements * value_bytes;
  return record.nnz * value_bytes + record.shape[0] * ((record.shape[1] + 7) / 8) + record.shape[0] * 8;
}

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

}  // namespace

struct WeightLoader::Part {
  bool sparse = false;
  OwnedTensor dense;
  Tensor view;  // of dense: what this rank keeps
  OwnedSparseWeight bitmap;

  DType dtype() const { return sparse ? bitmap.view.dtype() : view.dtype(); }
  std::int64_t rows() const { return sparse ? bitmap.view.rows : view.size(0); }
  std::int64_t cols() const { return sparse ? bitmap.view.cols : view.size(1); }
};

WeightLoader::WeightLoader(Mode mode, const Checkpoint& checkpoint, Ops& ops, Communicator& comm, ThreadPool& pool,
                           const LoadOptions& options)
    : mode_(mode), checkpoint_(checkpoint), ops_(ops), comm_(comm), pool_(pool), options_(options) {
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

WeightLoader::Part WeightLoader::read_part(const std::string& name) {
  const TensorRecord& record = checkpoint_.manifest().tensors.at(name);
  Part part;
  part.sparse = record.encoding == TensorRecord::Encoding::bitmap;
  if (part.sparse) {
    part.bitmap = checkpoint_.read_sparse(name, host_, pool_);
  } else {
    part.dense = checkpoint_.read_dense(name, host_, pool_);
    part.view = part.dense.view;
  }
  report_progress(record);
  return part;
}

OwnedTensor WeightLoader::read_plain(const std::string& name) {
  Part part = read_part(name);
  if (!part.sparse) return std::move(part.dense);
  OwnedTensor dense(host_, part.dtype(), {part.rows(), part.cols()});
  sparse_to_dense(part.bitmap.view, dense.view);
  return dense;
}

void WeightLoader::cut(Part& part, Shard shard) {
  if (shard == Shard::whole || comm_.size() == 1) return;
  const std::int64_t size = share(shard == Shard::rows ? part.rows() : part.cols());
  const std::int64_t begin = comm_.rank() * size;
  if (!part.sparse) {
    part.view = part.view.slice(shard == Shard::rows ? 0 : 1, begin, begin + size);
  } else {
    part.bitmap = shard == Shard::rows ? slice_rows(part.bitmap.view, begin, begin + size, host_)
                                       : slice_cols(part.bitmap.view, begin, begin + size, host_);
  }
}

// Parts of one encoding are stacked as they are; a mixture becomes sparse. Different dtypes meet in f32, which holds all of them.
std::unique_ptr<PackedWeight> WeightLoader::pack(std::vector<Part>& parts) {
  const bool any_sparse = std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.sparse; });
  const bool same = std::all_of(parts.begin(), parts.end(), [&](const Part& part) { return part.dtype() == parts[0].dtype(); });
  const DType dtype = same ? parts[0].dtype() : DType::f32;
  if (!any_sparse) {
    if (parts.size() == 1 && parts[0].view.is_contiguous()) return ops_.pack(parts[0].view);
    std::int64_t rows = 0;
    for (const Part& part : parts) rows += part.rows();
    const OwnedTensor stacked(host_, dtype, {rows, parts[0].cols()});
    rows = 0;
    for (const Part& part : parts) {
      copy_matrix(stacked.view.rows(rows, rows + part.rows()), part.view, pool_);
      rows += part.rows();
    }
    return ops_.pack(stacked.view);
  }
  std::vector<SparseWeight> views;
  for (Part& part : parts) {
    if (!part.sparse) {
      part.bitmap = sparse_from_dense(part.view, host_);
      part.dense = {};
    }
    if (part.bitmap.view.dtype() != dtype) {
      Buffer values(host_, static_cast<std::size_t>(part.bitmap.view.nnz()) * size_of(dtype));
      const Tensor converted = values.view(dtype, {part.bitmap.view.nnz()});
      convert_row(converted, part.bitmap.view.values);
      part.bitmap.values = std::move(values);
      part.bitmap.view.values = converted;
    }
    views.push_back(part.bitmap.view);
  }
  if (views.size() == 1) return ops_.pack(views[0]);
  const OwnedSparseWeight stacked = concat_rows(views, host_);
  return ops_.pack(stacked.view);
}

Linear WeightLoader::linear(const LinearSpec& spec) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) {
    names.push_back(spec.modules[i] + ".weight");
    expect(names.back(), {spec.rows[i], spec.cols});
    if (spec.bias) expect(spec.modules[i] + ".bias", {spec.rows[i]});
  }
  if (planning()) return {};
  std::vector<Part> parts;
  for (const std::string& name : names) {
    parts.push_back(read_part(name));
    cut(parts.back(), spec.shard);
  }
  std::unique_ptr<PackedWeight> weight = pack(parts);
  count_resident(weight->nbytes());
  return Linear(std::move(weight), spec.bias ? bias(spec) : OwnedTensor(), spec.shard, std::move(names));
}

OwnedTensor WeightLoader::bias(const LinearSpec& spec) {
  const bool by_rows = spec.shard == Shard::rows;
  std::int64_t size = 0;
  for (const std::int64_t rows : spec.rows) size += by_rows ? share(rows) : rows;
  const OwnedTensor stacked(host_, ops_.activation_dtype(), {size});
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < spec.modules.size(); ++i) {
    const OwnedTensor whole = read_plain(spec.modules[i] + ".bias");
    const std::int64_t own = by_rows ? share(spec.rows[i]) : spec.rows[i];
    const std::int64_t first = by_rows ? comm_.rank() * own : 0;
    convert_row(stacked.view.slice(0, begin, begin + own), whole.view.slice(0, first, first + own));
    begin += own;
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
  if (planning()) return {};
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
  if (planning()) return {};
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
  const std::int64_t own = share(config.vocab_size);
  vocabulary.row_begin = comm_.rank() * own;
  {
    const OwnedTensor whole = read_plain(name);
    const Tensor mine = whole.view.rows(vocabulary.row_begin, vocabulary.row_begin + own);
    if (config.tie_word_embeddings) {
      std::unique_ptr<PackedWeight> weight = ops_.pack(mine);
      count_resident(weight->nbytes());
      vocabulary.table = weight->table();
      vocabulary.head = Linear(std::move(weight), {}, Shard::rows, {name});
    }
    if (!vocabulary.table.defined()) {
      vocabulary.own_table = to_device(mine);
      vocabulary.table = vocabulary.own_table.view;
    }
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
