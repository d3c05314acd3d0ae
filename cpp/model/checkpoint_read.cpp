// How tensors are read from an open checkpoint.
#include <algorithm>
#include <array>
#include <utility>

#include "model/checkpoint_impl.h"

namespace gossamer {
namespace {

OwnedTensor allocate_tensor(Allocator& allocator, DType dtype, const std::vector<std::int64_t>& s) {
  switch (s.size()) {
    case 1: return OwnedTensor(allocator, dtype, {s[0]});
    case 2: return OwnedTensor(allocator, dtype, {s[0], s[1]});
    case 3: return OwnedTensor(allocator, dtype, {s[0], s[1], s[2]});
    default: return OwnedTensor(allocator, dtype, {s[0], s[1], s[2], s[3]});
  }
}

std::span<std::byte> bytes_of(const Buffer& buffer) { return {static_cast<std::byte*>(buffer.data()), buffer.bytes()}; }

void require_row_range(const std::string& name, std::int64_t begin, std::int64_t end, std::int64_t rows) {
  require(0 <= begin && begin <= end && end <= rows, "rows [" + std::to_string(begin) + ", " + std::to_string(end) + ") of tensor '" +
                                                         printable(name) + "' are not inside its " + std::to_string(rows) + " rows");
}

}  // namespace

const TensorRecord& Checkpoint::Impl::record(const std::string& name, TensorRecord::Encoding encoding) const {
  const auto found = manifest.tensors.find(name);
  require(found != manifest.tensors.end(), "the checkpoint has no tensor '" + printable(name) + "'");
  const bool dense = encoding == TensorRecord::Encoding::dense;
  require(found->second.encoding == encoding, "tensor '" + printable(name) + "' is not stored " + (dense ? "dense" : "as a bitmap"));
  return found->second;
}

const TensorRecord& Checkpoint::Impl::floating_record(const std::string& name) const {
  const TensorRecord& found = record(name, TensorRecord::Encoding::dense);
  require(is_floating(found.dtype), "tensor '" + printable(name) + "' is stored as " + std::string(name_of(found.dtype)) + " with scales");
  return found;
}

void Checkpoint::Impl::read(const VerifiedFile& file, std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) const {
  if (const std::shared_ptr<ReadAhead> threads = ahead.lock()) return threads->read(file, offset, out, pool);
  file.read(offset, out, pool);
}

void Checkpoint::Impl::read_stored(const std::string& stored_name, std::span<std::byte> out, ThreadPool& pool) const {
  const Location& location = stored.at(stored_name);
  check(location.end - location.begin == out.size(), "a stored tensor does not have the size of its destination");
  read(*location.file, location.begin, out, pool);
}

void Checkpoint::Impl::read_stored_part(const std::string& stored_name, std::uint64_t offset, std::span<std::byte> out,
                                        ThreadPool& pool) const {
  const Location& location = stored.at(stored_name);
  check(offset <= location.end - location.begin && out.size() <= location.end - location.begin - offset,
        "a part of a stored tensor lies outside it");
  read(*location.file, location.begin + offset, out, pool);
}

// Where the values of rows begin .. end - 1 start, and the end of the last. What an untrusted file says is checked only so far as reading
// the values needs; validate() sees the rest.
std::vector<std::int64_t> Checkpoint::Impl::read_offsets(const PartNames& names, const TensorRecord& record, std::int64_t begin,
                                                         std::int64_t end, ThreadPool& pool) const {
  const std::int64_t stored_end = std::min(end + 1, record.shape[0]);  // the disk has one offset per row
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(end - begin + 1), record.nnz);
  const auto known = std::span(offsets).first(static_cast<std::size_t>(stored_end - begin));
  read_stored_part(names.row_offsets, static_cast<std::uint64_t>(begin) * sizeof(std::int64_t), std::as_writable_bytes(known), pool);
  const std::int64_t first = begin == 0 ? 0 : offsets.front();
  const std::int64_t last = offsets.back();
  const bool on_bytes = record.dtype != DType::i4 || (first % 2 == 0 && last % 2 == 0);
  if (first < 0 || last < first || last > record.nnz || !on_bytes) {
    throw CheckpointError(on_bytes ? "a sparse weight's row_offsets do not lie in increasing order within its values"
                                   : "a row of i4 values does not begin on a byte",
                          {.file = record.shard,
                           .tensor = printable(names.row_offsets),
                           .field = "row_offsets",
                           .expected = "between 0 and " + std::to_string(record.nnz),
                           .found = std::to_string(first) + " for row " + std::to_string(begin) + ", " + std::to_string(last) +
                                    " for row " + std::to_string(end)});
  }
  return offsets;
}

OwnedTensor Checkpoint::read_dense(const std::string& name, Allocator& allocator, ThreadPool& pool) const {
  const TensorRecord& record = impl_->floating_record(name);
  OwnedTensor tensor = allocate_tensor(allocator, record.dtype, record.shape);
  impl_->read_stored(name, bytes_of(tensor.buffer), pool);
  return tensor;
}

OwnedTensor Checkpoint::read_dense_rows(const std::string& name, std::int64_t begin, std::int64_t end, Allocator& allocator,
                                        ThreadPool& pool) const {
  const TensorRecord& record = impl_->floating_record(name);
  require(record.shape.size() == 2, "read_dense_rows: tensor '" + printable(name) + "' is no matrix");
  require_row_range(name, begin, end, record.shape[0]);
  OwnedTensor tensor(allocator, record.dtype, {end - begin, record.shape[1]});
  const auto row_bytes = static_cast<std::uint64_t>(record.shape[1]) * size_of(record.dtype);
  impl_->read_stored_part(name, static_cast<std::uint64_t>(begin) * row_bytes, bytes_of(tensor.buffer), pool);
  return tensor;
}

OwnedScaledMatrix Checkpoint::read_scaled_rows(const std::string& name, std::int64_t begin, std::int64_t end, Allocator& allocator,
                                               ThreadPool& pool) const {
  const TensorRecord& record = impl_->record(name, TensorRecord::Encoding::dense);
  require(is_scaled(record.dtype),
          "tensor '" + printable(name) + "' is stored as " + std::string(name_of(record.dtype)) + ", without scales");
  require_row_range(name, begin, end, record.shape[0]);
  OwnedScaledMatrix matrix(allocator, record.dtype, end - begin, record.shape[1], record.scale_group);
  const auto first = static_cast<std::uint64_t>(begin);
  impl_->read_stored_part(name, first * static_cast<std::uint64_t>(bytes_of(record.dtype, record.shape[1])), bytes_of(matrix.values), pool);
  const auto scale_bytes = static_cast<std::uint64_t>(matrix.view.scales.size(1)) * sizeof(float);
  impl_->read_stored_part(PartNames(name).scale, first * scale_bytes, bytes_of(matrix.scales), pool);
  validate(matrix.view, name, record.shard);
  return matrix;
}

OwnedSparseWeight Checkpoint::read_sparse(const std::string& name, Allocator& allocator, ThreadPool& pool) const {
  const TensorRecord& record = impl_->record(name, TensorRecord::Encoding::bitmap);
  return read_sparse_rows(name, 0, record.shape[0], allocator, pool);
}

OwnedSparseWeight Checkpoint::read_sparse_rows(const std::string& name, std::int64_t begin, std::int64_t end, Allocator& allocator,
                                               ThreadPool& pool) const {
  const TensorRecord& record = impl_->record(name, TensorRecord::Encoding::bitmap);
  const std::int64_t rows = record.shape[0];
  const std::int64_t cols = record.shape[1];
  require_row_range(name, begin, end, rows);
  const PartNames names(name);
  std::array<std::int64_t, 2> shape{};
  impl_->read_stored(names.shape, std::as_writable_bytes(std::span(shape)), pool);
  if (shape[0] != rows || shape[1] != cols) {
    throw CheckpointError("a sparse weight's stored shape is not the manifest's",
                          {.file = record.shard,
                           .tensor = printable(names.shape),
                           .expected = "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]",
                           .found = "[" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + "]"});
  }
  const std::vector<std::int64_t> stored = impl_->read_offsets(names, record, begin, end, pool);
  const std::int64_t first = begin == 0 ? 0 : stored.front();
  OwnedSparseWeight weight(allocator, end - begin, cols, stored.back() - first, record.dtype, record.scale_group);
  const auto mask_begin = static_cast<std::uint64_t>(begin) * static_cast<std::uint64_t>(weight.view.mask_stride());
  impl_->read_stored_part(names.bitmask, mask_begin, bytes_of(weight.mask), pool);
  impl_->read_stored_part(names.compressed, static_cast<std::uint64_t>(bytes_of(record.dtype, first)), bytes_of(weight.values), pool);
  if (is_scaled(record.dtype)) {
    const auto scale_bytes = static_cast<std::uint64_t>(weight.view.scales.size(1)) * sizeof(float);
    impl_->read_stored_part(names.scale, static_cast<std::uint64_t>(begin) * scale_bytes, bytes_of(weight.scales), pool);
  }
  // Unsigned: what an untrusted file says may wrap around.
  std::transform(stored.begin(), stored.end(), weight.view.row_offsets.data<std::int64_t>(), [first](std::int64_t offset) {
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(offset) - static_cast<std::uint64_t>(first));
  });
  validate(weight.view, name, record.shard);
  return weight;
}

std::shared_ptr<ReadAhead> Checkpoint::read_ahead(const std::vector<TensorRows>& order, int num_threads) const {
  std::vector<ReadAhead::Need> needs;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const TensorRecord& record = impl_->manifest.tensors.at(order[i].name);
    const auto rows = static_cast<std::uint64_t>(record.shape[0]);
    for (const StoredTensor& part : stored_tensors(order[i].name, record)) {
      const Location& place = impl_->stored.at(part.name);
      const std::uint64_t bytes = place.end - place.begin;
      // Exact but for a bitmap's values, of which only the offsets know where a row begins.
      const auto before = [bytes, rows](std::int64_t row) {
        const auto r = static_cast<std::uint64_t>(row);
        return std::min(bytes, bytes / rows * r + bytes % rows * r / rows);
      };
      needs.push_back({place.file, place.begin + before(order[i].begin), place.begin + before(order[i].end), static_cast<std::int64_t>(i)});
    }
  }
  const auto ahead = std::make_shared<ReadAhead>(needs, num_threads);
  impl_->ahead = ahead;
  return ahead;
}

}  // namespace gossamer
