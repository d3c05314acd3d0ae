#include "model/checkpoint.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "model/manifest.h"
#include "model/safetensors.h"
#include "model/verified_file.h"

namespace gossamer {
namespace {

// Where a stored tensor lies.
struct Location {
  const VerifiedFile* file = nullptr;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

std::string shell_quoted(const std::string& path) {
  constexpr std::string_view kPlain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/+=:@%,";
  if (!path.empty() && path.find_first_not_of(kPlain) == std::string::npos) return path;
  std::string quoted = "'";
  for (const char c : path) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

[[noreturn]] void throw_needs_conversion(std::string_view what, std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  throw CheckpointError(std::string(what) + ", not a Gossamer model. Convert it once:\n    gossamer convert " + shell_quoted(path) + " " +
                        shell_quoted(path + "-gossamer"));
}

[[noreturn]] void throw_no_manifest(const Directory& directory, const std::string& name) {
  const std::vector<std::string> files = directory.list();
  const auto any = [&files](auto matches) { return std::any_of(files.begin(), files.end(), matches); };
  const bool unfinished = any([](const std::string& file) { return file == ".gossamer.lock" || file.ends_with(".partial"); });
  if (unfinished) {
    throw CheckpointError("'" + printable(name) + "' holds an unfinished conversion: gossamer.json is written last and is not there. " +
                          "Run the same `gossamer convert` or `gossamer prune` command again to complete it.");
  }
  const bool has_config = any([](const std::string& file) { return file == "config.json"; });
  const bool has_shards = any([](const std::string& file) { return is_shard_name(file); });
  if (has_config && has_shards) throw_needs_conversion("'" + printable(name) + "' is a plain Hugging Face model directory", name);
  const auto gguf = std::find_if(files.begin(), files.end(), [](const std::string& file) { return file.ends_with(".gguf"); });
  if (gguf != files.end()) throw_needs_conversion("'" + printable(name) + "' holds a GGUF file", name + "/" + *gguf);
  throw CheckpointError("'" + printable(name) + "' is not a model directory: it has no gossamer.json. " +
                        "Pass the path of a directory made by `gossamer convert` or `gossamer prune`.");
}

OwnedTensor allocate_tensor(Allocator& allocator, DType dtype, const std::vector<std::int64_t>& s) {
  switch (s.size()) {
    case 1: return OwnedTensor(allocator, dtype, {s[0]});
    case 2: return OwnedTensor(allocator, dtype, {s[0], s[1]});
    case 3: return OwnedTensor(allocator, dtype, {s[0], s[1], s[2]});
    default: return OwnedTensor(allocator, dtype, {s[0], s[1], s[2], s[3]});
  }
}

std::span<std::byte> bytes_of(const Buffer& buffer) { return {static_cast<std::byte*>(buffer.data()), buffer.bytes()}; }

std::string read_text(const Directory& directory, const std::string& name, std::uint64_t max_bytes) {
  const std::unique_ptr<File> file = directory.open(name);
  if (file->size() > max_bytes) {
    throw CheckpointError(
        "a file is too large",
        {.file = name, .expected = "at most " + std::to_string(max_bytes) + " bytes", .found = std::to_string(file->size())});
  }
  std::string text(file->size(), '\0');
  file->read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void require_row_range(const std::string& name, std::int64_t begin, std::int64_t end, std::int64_t rows) {
  require(0 <= begin && begin <= end && end <= rows, "rows [" + std::to_string(begin) + ", " + std::to_string(end) + ") of tensor '" +
                                                         printable(name) + "' are not inside its " + std::to_string(rows) + " rows");
}

}  // namespace

struct Checkpoint::Impl {
  Impl(std::unique_ptr<Directory> dir, const std::string& name, Verify verify);

  void open_shard(const std::string& file_name, const std::vector<StoredTensor>& expected, Verify verify);
  const TensorRecord& record(const std::string& name, TensorRecord::Encoding encoding) const;
  const TensorRecord& floating_record(const std::string& name) const;
  void read_stored(const std::string& stored_name, std::span<std::byte> out, ThreadPool& pool) const;
  void read_stored_part(const std::string& stored_name, std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) const;
  std::vector<std::int64_t> read_offsets(const PartNames& names, const TensorRecord& record, std::int64_t begin, std::int64_t end,
                                         ThreadPool& pool) const;

  std::unique_ptr<Directory> directory;
  Manifest manifest;
  std::map<std::string, std::unique_ptr<VerifiedFile>> shards;
  std::map<std::string, Location> stored;  // by stored (physical) tensor name
};

Checkpoint::Impl::Impl(std::unique_ptr<Directory> dir, const std::string& name, Verify verify) : directory(std::move(dir)) {
  if (!directory->exists(kManifestName)) throw_no_manifest(*directory, name);
  manifest = parse_manifest(read_text(*directory, kManifestName, kMaxManifestBytes));
  std::map<std::string, std::vector<StoredTensor>> expected;  // by shard
  for (const auto& [tensor_name, tensor] : manifest.tensors) {
    std::vector<StoredTensor>& in_shard = expected[tensor.shard];
    for (StoredTensor& part : stored_tensors(tensor_name, tensor)) in_shard.push_back(std::move(part));
  }
  for (const auto& [file_name, file] : manifest.files) {
    if (is_shard_name(file_name)) {
      open_shard(file_name, expected[file_name], verify);
    } else {
      VerifiedFile(*directory, file_name, file, Verify::full).verify_all();
    }
  }
}

void Checkpoint::Impl::open_shard(const std::string& file_name, const std::vector<StoredTensor>& expected, Verify verify) {
  auto shard = std::make_unique<VerifiedFile>(*directory, file_name, manifest.files.at(file_name), verify);
  std::array<std::byte, kSafetensorsLengthBytes> length{};
  if (shard->size() < length.size()) {
    throw CheckpointError("the file is too short for a safetensors file",
                          {.file = file_name, .offset = static_cast<std::int64_t>(shard->size()), .expected = "at least 8 bytes"});
  }
  shard->read(0, length);
  std::string header(safetensors_header_bytes(length, shard->size(), file_name), '\0');
  shard->read(length.size(), std::as_writable_bytes(std::span(header)));
  const std::vector<SafetensorsEntry> entries = parse_safetensors_header(header, shard->size(), file_name);
  require_same_tensors(entries, expected, file_name);
  for (const SafetensorsEntry& entry : entries) stored.emplace(entry.tensor.name, Location{shard.get(), entry.begin, entry.end});
  shards.emplace(file_name, std::move(shard));
}

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

void Checkpoint::Impl::read_stored(const std::string& stored_name, std::span<std::byte> out, ThreadPool& pool) const {
  const Location& location = stored.at(stored_name);
  check(location.end - location.begin == out.size(), "a stored tensor does not have the size of its destination");
  location.file->read(location.begin, out, pool);
}

void Checkpoint::Impl::read_stored_part(const std::string& stored_name, std::uint64_t offset, std::span<std::byte> out,
                                        ThreadPool& pool) const {
  const Location& location = stored.at(stored_name);
  check(offset <= location.end - location.begin && out.size() <= location.end - location.begin - offset,
        "a part of a stored tensor lies outside it");
  location.file->read(location.begin + offset, out, pool);
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

Checkpoint Checkpoint::open(const std::string& path, Verify verify, bool allow_symlinks) {
  std::error_code ignored;
  if (path.ends_with(".gguf") && std::filesystem::is_regular_file(path, ignored)) {
    throw_needs_conversion("'" + printable(path) + "' is a GGUF file", path);
  }
  return open(open_directory(path, allow_symlinks), path, verify);
}

Checkpoint Checkpoint::open(std::unique_ptr<Directory> directory, const std::string& name, Verify verify) {
  return Checkpoint(std::make_unique<Impl>(std::move(directory), name, verify));
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const Manifest& Checkpoint::manifest() const { return impl_->manifest; }

std::string Checkpoint::side_file(const std::string& name) const {
  const auto record = impl_->manifest.files.find(name);
  if (record == impl_->manifest.files.end()) return {};
  require(!is_shard_name(name), "side_file: '" + printable(name) + "' is a shard");
  const VerifiedFile file(*impl_->directory, name, record->second, Verify::full);
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void Checkpoint::require_tensors(const std::map<std::string, std::vector<std::int64_t>>& expected) const {
  std::vector<std::string> missing;
  std::vector<std::string> wrong;
  std::vector<std::string> extra;
  for (const auto& [name, shape] : expected) {
    const auto found = impl_->manifest.tensors.find(name);
    if (found == impl_->manifest.tensors.end()) {
      missing.push_back(printable(name));
    } else if (found->second.shape != shape) {
      wrong.push_back(printable(name) + " " + shape_text(found->second.shape) + " instead of " + shape_text(shape));
    }
  }
  for (const auto& [name, record] : impl_->manifest.tensors) {
    if (!expected.contains(name)) extra.push_back(printable(name));
  }
  if (missing.empty() && wrong.empty() && extra.empty()) return;
  std::string found;
  const auto add = [&found](const char* label, const std::vector<std::string>& names) {
    if (!names.empty()) found += (found.empty() ? "" : "; ") + std::to_string(names.size()) + label + join_some(names);
  };
  add(" missing: ", missing);
  add(" of another shape: ", wrong);
  add(" extra: ", extra);
  const std::string first = !missing.empty() ? missing[0] : !wrong.empty() ? wrong[0].substr(0, wrong[0].find(' ')) : extra[0];
  throw CheckpointError("the checkpoint does not hold the tensors that its config.json implies",
                        {.file = kManifestName,
                         .tensor = first,
                         .field = "tensors",
                         .found = found,
                         .fix = "config.json and the weights belong to different models, or the conversion was faulty: convert again."});
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

}  // namespace gossamer
