#include "model/checkpoint.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "model/checkpoint_impl.h"
#include "model/safetensors.h"

namespace gossamer {
namespace {

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

}  // namespace

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

}  // namespace gossamer
