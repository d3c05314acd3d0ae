#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <utility>

#include "model/strict_json.h"

namespace gossamer {
namespace {

constexpr const char* kAgain = "Convert or download the model again.";
constexpr std::int64_t kMaxInteger = std::numeric_limits<std::int64_t>::max();
constexpr std::array<std::pair<std::string_view, std::uint64_t>, 7> kElementBytes{
    {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8}, {"U8", 1}, {"I8", 1}, {"F8_E4M3", 1}}};

std::string form_of(const StoredTensor& tensor) { return tensor.dtype + shape_text(tensor.shape); }

void check_metadata(const JsonFields& metadata) {
  for (const auto& [key, value] : metadata.members()) {
    if (value.as<std::string>() == nullptr) metadata.fail(key, "a string", value.describe());
  }
}

// The bytes that dtype and shape imply.
std::uint64_t implied_bytes(const StoredTensor& tensor, const JsonFields& fields) {
  const auto* known =
      std::find_if(kElementBytes.begin(), kElementBytes.end(), [&](const auto& pair) { return pair.first == tensor.dtype; });
  if (known == kElementBytes.end()) fields.fail("dtype", "F32, F16, BF16, I64, U8, I8 or F8_E4M3", fields.member("dtype").describe());
  std::uint64_t bytes = known->second;
  for (const std::int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(size), &bytes)) {
      fields.fail("shape", "less than 2^64 bytes in all", shape_text(tensor.shape));
    }
  }
  return bytes;
}

SafetensorsEntry parse_entry(const std::string& name, const JsonFields& fields, std::uint64_t data_begin, std::uint64_t expected_begin,
                             std::uint64_t data_bytes) {
  fields.allow_only({"dtype", "shape", "data_offsets"});
  SafetensorsEntry entry;
  entry.tensor.name = name;
  entry.tensor.dtype = fields.string("dtype");
  entry.tensor.shape = integers_of(fields, "shape", 0, kMaxInteger);
  if (entry.tensor.shape.size() > Tensor::kMaxRank) fields.fail("shape", "at most 4 sizes", std::to_string(entry.tensor.shape.size()));
  const std::vector<std::int64_t> offsets = integers_of(fields, "data_offsets", 0, kMaxInteger);
  if (offsets.size() != 2) fields.fail("data_offsets", "2 integers", std::to_string(offsets.size()));
  const auto begin = static_cast<std::uint64_t>(offsets[0]);
  const auto end = static_cast<std::uint64_t>(offsets[1]);
  if (begin != expected_begin) {
    fields.fail("data_offsets", "to begin at " + std::to_string(expected_begin) + ", where the tensor before it ends", shape_text(offsets));
  }
  if (end < begin || end > data_bytes) {
    fields.fail("data_offsets", "to end inside the file's " + std::to_string(data_bytes) + " bytes of data", shape_text(offsets));
  }
  const std::uint64_t bytes = implied_bytes(entry.tensor, fields);
  if (end - begin != bytes) fields.fail("data_offsets", std::to_string(bytes) + " bytes for " + form_of(entry.tensor), shape_text(offsets));
  entry.begin = data_begin + begin;
  entry.end = data_begin + end;
  return entry;
}

}  // namespace

std::uint64_t safetensors_header_bytes(std::span<const std::byte, kSafetensorsLengthBytes> length, std::uint64_t file_bytes,
                                       const std::string& file) {
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, length.data(), sizeof(header_bytes));
  const std::uint64_t limit = std::min(kMaxSafetensorsHeader, file_bytes - kSafetensorsLengthBytes);
  if (header_bytes < 2 || header_bytes > limit || header_bytes % 8 != 0) {
    throw CheckpointError("the length of the safetensors header is wrong", {.file = file,
                                                                            .offset = 0,
                                                                            .field = "header length",
                                                                            .expected = "a multiple of 8 up to " + std::to_string(limit),
                                                                            .found = std::to_string(header_bytes),
                                                                            .fix = kAgain});
  }
  return header_bytes;
}

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view header, std::uint64_t file_bytes, const std::string& file) {
  const std::uint64_t data_begin = kSafetensorsLengthBytes + header.size();
  const std::uint64_t data_bytes = file_bytes - data_begin;
  const std::string_view json = header.substr(0, header.find_last_not_of(' ') + 1);
  if (!json.ends_with('}')) {
    throw CheckpointError("the safetensors header does not end where it should",
                          {.file = file,
                           .offset = static_cast<std::int64_t>(kSafetensorsLengthBytes + json.size()),
                           .expected = "'}', then spaces only",
                           .fix = kAgain});
  }
  const JsonValue root = parse_strict_json(json, file, kSafetensorsLengthBytes);
  const JsonFields top(root, file, "");
  std::vector<SafetensorsEntry> entries;
  std::uint64_t next = 0;
  for (const auto& [name, value] : top.members()) {
    if (name == "__metadata__") {
      check_metadata(JsonFields(value, file, name));
      continue;
    }
    entries.push_back(parse_entry(name, JsonFields(value, file, printable(name)), data_begin, next, data_bytes));
    next = entries.back().end - data_begin;
  }
  if (next != data_bytes) {
    throw CheckpointError("the file's data does not end with its last tensor", {.file = file,
                                                                                .offset = static_cast<std::int64_t>(data_begin + next),
                                                                                .expected = std::to_string(next) + " bytes of data",
                                                                                .found = std::to_string(data_bytes),
                                                                                .fix = kAgain});
  }
  return entries;
}

std::string join_some(const std::vector<std::string>& items) {
  constexpr std::size_t kShown = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, items.size()); ++i) text += (i == 0 ? "" : ", ") + items[i];
  return items.size() > kShown ? text + " and " + std::to_string(items.size() - kShown) + " more" : text;
}

void require_same_tensors(const std::vector<SafetensorsEntry>& found, const std::vector<StoredTensor>& expected, const std::string& file) {
  std::map<std::string_view, const StoredTensor*> wanted;
  for (const StoredTensor& tensor : expected) wanted.emplace(tensor.name, &tensor);
  std::vector<std::string> problems;
  std::string first;
  const auto report = [&](const std::string& name, const std::string& what) {
    if (first.empty()) first = printable(name);
    problems.push_back(printable(name) + " " + what);
  };
  for (const SafetensorsEntry& entry : found) {
    const auto match = wanted.find(entry.tensor.name);
    if (match == wanted.end()) {
      report(entry.tensor.name, "is extra");
      continue;
    }
    if (form_of(*match->second) != form_of(entry.tensor)) {
      report(entry.tensor.name, "is " + form_of(entry.tensor) + " instead of " + form_of(*match->second));
    }
    wanted.erase(match);
  }
  for (const auto& [name, tensor] : wanted) report(tensor->name, "is missing");
  if (problems.empty()) return;
  throw CheckpointError("the shard does not hold the tensors that the manifest says",
                        {.file = file, .tensor = first, .found = join_some(problems), .fix = kAgain});
}

}  // namespace gossamer
