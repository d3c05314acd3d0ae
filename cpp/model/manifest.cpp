#include "model/manifest.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <span>

#include "core/sha256.h"
#include "model/strict_json.h"

namespace gossamer {
namespace {

constexpr std::string_view kDigestPrefix = "{\"digest\": \"sha256:";
constexpr std::size_t kHexDigits = 64;
constexpr std::int64_t kMaxInteger = std::numeric_limits<std::int64_t>::max();
constexpr std::string_view kWeightSuffix = ".weight";
constexpr const char* kDamaged = "The model is damaged or incomplete: convert or download it again.";

bool is_hex_digest(std::string_view text) {
  return text.size() == kHexDigits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string hex_of_text(std::string_view text) { return to_hex(sha256(std::as_bytes(std::span(text.data(), text.size())))); }

// Of an already checked hexadecimal digest.
Sha256Digest from_hex(std::string_view hex) {
  const auto digit = [](char c) { return static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10); };
  Sha256Digest digest;
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::byte>(digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]));
  return digest;
}

// The digest covers raw bytes, so it is checked before anything is parsed.
std::string check_digest(std::string_view bytes) {
  const std::size_t covered_from = kDigestPrefix.size() + kHexDigits;
  const bool starts_right = bytes.size() > covered_from && bytes.starts_with(kDigestPrefix);
  if (!starts_right || !is_hex_digest(bytes.substr(kDigestPrefix.size(), kHexDigits))) {
    throw CheckpointError("the manifest does not begin with its digest", {.file = kManifestName,
                                                                          .offset = 0,
                                                                          .field = "digest",
                                                                          .expected = std::string(kDigestPrefix) + "<64 hex digits>",
                                                                          .found = printable(bytes.substr(0, kDigestPrefix.size())),
                                                                          .fix = kDamaged});
  }
  std::string stated(bytes.substr(kDigestPrefix.size(), kHexDigits));
  std::string actual = hex_of_text(bytes.substr(covered_from));
  if (stated != actual) {
    throw ChecksumError("the manifest's digest is wrong",
                        {.file = kManifestName, .field = "digest", .expected = stated, .found = std::move(actual), .fix = kDamaged});
  }
  return stated;
}

void check_version(const JsonFields& top) {
  if (top.string("format") != "gossamer-checkpoint") {
    top.fail("format", "\"gossamer-checkpoint\"", top.member("format").describe());
  }
  constexpr const char* kUpgrade = "Use a newer gossamer, or convert the model again with this one.";
  const std::int64_t version = top.integer("format_version", 1, kMaxInteger);
  if (version != kFormatVersion) {
    throw CheckpointVersionError("the checkpoint's format version is not supported", {.file = kManifestName,
                                                                                      .field = "format_version",
                                                                                      .expected = std::to_string(kFormatVersion),
                                                                                      .found = std::to_string(version),
                                                                                      .fix = kUpgrade});
  }
  for (const JsonValue& feature : top.array("required_features")) {
    const auto* name = feature.as<std::string>();
    if (name == nullptr) top.fail("required_features", "strings", feature.describe());
    if (*name != "bitmap" && *name != "scales") {
      throw CheckpointVersionError("the checkpoint needs a feature that this version does not know",
                                   {.file = kManifestName,
                                    .field = "required_features",
                                    .expected = "\"bitmap\" and \"scales\" only",
                                    .found = feature.describe(),
                                    .fix = kUpgrade});
    }
  }
}

std::string hex_member(const JsonFields& fields, std::string_view name) {
  const std::string& text = fields.string(name);
  if (!is_hex_digest(text)) fields.fail(name, "64 lower-case hexadecimal digits", fields.member(name).describe());
  return text;
}

void check_source(const JsonFields& source) {
  constexpr std::array<std::string_view, 3> kKinds{"huggingface", "gguf", "gossamer"};
  if (std::find(kKinds.begin(), kKinds.end(), source.string("kind")) == kKinds.end()) {
    source.fail("kind", "\"huggingface\", \"gguf\" or \"gossamer\"", source.member("kind").describe());
  }
  source.string("name");
  hex_member(source, "sha256");
}

std::string parse_pruning(const JsonFields& top) {
  const JsonValue& value = top.member("pruning");
  if (value.as<std::nullptr_t>() != nullptr) return "null";
  const JsonFields pruning = top.object("pruning");
  pruning.string("method");
  pruning.string("pattern");
  const JsonValue& sparsity = pruning.member("sparsity");
  const auto* whole = sparsity.as<std::int64_t>();
  const auto* real = sparsity.as<double>();
  const double fraction = whole != nullptr ? static_cast<double>(*whole) : real != nullptr ? *real : -1.0;
  if (!(fraction >= 0.0 && fraction <= 1.0)) pruning.fail("sparsity", "a number from 0 to 1", sparsity.describe());
  if (pruning.member("calibration_sha256").as<std::nullptr_t>() == nullptr) hex_member(pruning, "calibration_sha256");
  return value.dump();
}

void check_file_name(const JsonFields& fields, std::string_view name) {
  constexpr std::string_view kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  if (name.empty() || name.size() > 128 || name[0] == '.' || name.find_first_not_of(kAllowed) != std::string_view::npos) {
    throw UnsafePathError("the manifest names a file that is not a plain name",
                          {.file = kManifestName,
                           .field = fields.path_of(name),
                           .expected = "1 to 128 characters of A-Z a-z 0-9 . _ -, not starting with a dot",
                           .found = printable(name)});
  }
  if (name == kManifestName) fields.fail(name, "files other than the manifest itself", "the manifest");
}

FileRecord parse_file(const JsonFields& fields) {
  fields.allow_only({"bytes", "sha256", "chunks"});
  FileRecord record;
  record.bytes = static_cast<std::uint64_t>(fields.integer("bytes", 0, kMaxInteger));
  record.sha256 = hex_member(fields, "sha256");
  Sha256 over_chunks;
  for (const JsonValue& chunk : fields.array("chunks")) {
    const auto* hex = chunk.as<std::string>();
    if (hex == nullptr || !is_hex_digest(*hex)) fields.fail("chunks", "strings of 64 lower-case hexadecimal digits", chunk.describe());
    over_chunks.update(from_hex(*hex));
    record.chunks.push_back(*hex);
  }
  const std::uint64_t expected_chunks = record.bytes / kChunkBytes + (record.bytes % kChunkBytes != 0 ? 1 : 0);
  if (record.chunks.size() != expected_chunks) {
    fields.fail("chunks", std::to_string(expected_chunks) + " digests of 16 MiB each", std::to_string(record.chunks.size()));
  }
  const std::string actual = to_hex(over_chunks.finish());
  if (actual != record.sha256) {
    throw ChecksumError(
        "a file's digest does not belong to its chunks' digests",
        {.file = kManifestName, .field = fields.path_of("sha256"), .expected = actual, .found = record.sha256, .fix = kDamaged});
  }
  return record;
}

std::map<std::string, FileRecord> parse_files(const JsonFields& files) {
  std::map<std::string, FileRecord> records;
  for (const auto& member : files.members()) {
    check_file_name(files, member.first);
    records.emplace(member.first, parse_file(files.nested(member)));
  }
  if (!records.contains("config.json")) files.fail("config.json", "this file", "nothing");
  return records;
}

void check_tensor_name(const JsonFields& tensors, std::string_view name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7F; });
  if (name.empty() || !plain) tensors.fail(name, "tensor names of 1 to 256 printable ASCII characters", printable(name));
}

// The bytes that the shape implies, without overflow.
void check_bytes(const JsonFields& fields, const TensorRecord& record) {
  std::int64_t bytes = static_cast<std::int64_t>(size_of(record.dtype));
  for (const std::int64_t size : record.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) fields.fail("shape", "less than 2^63 bytes in all", fields.member("shape").dump());
  }
}

// Stored values of a bitmap: at most one a weight, and in i4 an even number in every row.
void parse_nnz(const JsonFields& fields, TensorRecord& record) {
  const std::int64_t elements = record.shape[0] * record.shape[1];
  std::int64_t limit = elements;
  if (record.dtype == DType::i4 && record.shape[1] % 2 != 0 && __builtin_add_overflow(elements, record.shape[0], &limit)) limit = elements;
  record.nnz = fields.integer("nnz", 0, limit);
  if (record.dtype == DType::i4 && record.nnz % 2 != 0) fields.fail("nnz", "an even number of i4 values", std::to_string(record.nnz));
}

void parse_scale_group(const JsonFields& fields, TensorRecord& record) {
  const std::int64_t cols = record.shape[1];
  record.scale_group = cols;
  if (fields.member("scale_group").as<std::nullptr_t>() != nullptr) return;  // one scale a row
  record.scale_group = fields.integer("scale_group", 1, kMaxInteger);
  if (record.scale_group >= cols || record.scale_group % kScaleGroupUnit != 0) {
    fields.fail("scale_group",
                "null, or less than " + std::to_string(cols) + " columns and a multiple of " + std::to_string(kScaleGroupUnit),
                std::to_string(record.scale_group));
  }
}

TensorRecord parse_tensor(std::string_view name, const JsonFields& fields) {
  TensorRecord record;
  const std::string& encoding = fields.string("encoding");
  if (encoding != "dense" && encoding != "bitmap") fields.fail("encoding", "\"dense\" or \"bitmap\"", fields.member("encoding").describe());
  record.encoding = encoding == "dense" ? TensorRecord::Encoding::dense : TensorRecord::Encoding::bitmap;
  const bool sparse = record.encoding == TensorRecord::Encoding::bitmap;

  const auto dtype = parse_dtype(fields.string("dtype"));
  if (!dtype || !(is_floating(*dtype) || is_scaled(*dtype))) {
    fields.fail("dtype", "\"f32\", \"f16\", \"bf16\", \"i8\", \"e4m3\" or \"i4\"", fields.member("dtype").describe());
  }
  record.dtype = *dtype;
  const bool scaled = is_scaled(record.dtype);
  fields.allow_only({"encoding", "dtype", "shape", "shard", sparse ? "nnz" : "shard", scaled ? "scale_group" : "shard"});
  record.shape = integers_of(fields, "shape", 1, kMaxInteger);
  const bool matrix = sparse || scaled;
  if (record.shape.empty() || record.shape.size() > Tensor::kMaxRank || (matrix && record.shape.size() != 2)) {
    fields.fail("shape", matrix ? "2 sizes" : "1 to 4 sizes", std::to_string(record.shape.size()));
  }
  check_bytes(fields, record);
  if (matrix && !name.ends_with(kWeightSuffix)) {
    fields.fail(sparse ? "encoding" : "dtype",
                (sparse ? "\"dense\"" : "a floating one") + std::string(" for a name that does not end with .weight"),
                sparse ? "\"bitmap\"" : std::string(name_of(record.dtype)));
  }
  if (sparse) parse_nnz(fields, record);
  if (scaled) parse_scale_group(fields, record);
  record.shard = fields.string("shard");
  return record;
}

std::map<std::string, TensorRecord> parse_tensors(const JsonFields& tensors, const std::map<std::string, FileRecord>& files) {
  std::map<std::string, TensorRecord> records;
  std::set<std::string> stored_names;
  for (const auto& member : tensors.members()) {
    const std::string& name = member.first;
    check_tensor_name(tensors, name);
    const JsonFields fields = tensors.nested(member);
    TensorRecord record = parse_tensor(name, fields);
    check_file_name(fields, record.shard);
    if (!is_shard_name(record.shard) || !files.contains(record.shard)) {
      fields.fail("shard", "a .safetensors file that is listed in `files`", fields.member("shard").describe());
    }
    for (StoredTensor& stored : stored_tensors(name, record)) {
      if (!stored_names.insert(std::move(stored.name)).second) fields.fail("", "a name of its own for each stored tensor", printable(name));
    }
    records.emplace(name, std::move(record));
  }
  return records;
}

void check_model_id(const Manifest& manifest) {
  std::string lines;
  for (const auto& [name, record] : manifest.files) lines += name + " " + record.sha256 + "\n";
  const std::string actual = hex_of_text(lines);
  if (actual != manifest.model_id) {
    throw ChecksumError("the model id does not belong to the files' digests",
                        {.file = kManifestName, .field = "model_id", .expected = actual, .found = manifest.model_id, .fix = kDamaged});
  }
}

}  // namespace

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

bool is_shard_name(std::string_view file_name) { return file_name.ends_with(".safetensors"); }

PartNames::PartNames(std::string_view logical_name) {
  const std::string prefix(logical_name.substr(0, logical_name.size() - kWeightSuffix.size()));
  shape = prefix + ".shape";
  compressed = prefix + ".compressed";
  bitmask = prefix + ".bitmask";
  row_offsets = prefix + ".row_offsets";
  scale = prefix + ".scale";
}

namespace {

const char* shard_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::i8: return "I8";
    case DType::e4m3: return "F8_E4M3";
    default: return "U8";  // i4, two to a byte
  }
}

}  // namespace

std::vector<StoredTensor> stored_tensors(const std::string& logical_name, const TensorRecord& record) {
  const char* dtype = shard_dtype(record.dtype);
  const bool sparse = record.encoding == TensorRecord::Encoding::bitmap;
  if (!sparse && !is_scaled(record.dtype)) return {{logical_name, dtype, record.shape}};
  const PartNames names(logical_name);
  const std::int64_t rows = record.shape[0];
  const std::int64_t cols = record.shape[1];
  std::vector<StoredTensor> parts;
  if (sparse) {
    parts = {{names.shape, "I64", {2}},
             {names.row_offsets, "I64", {rows}},
             {names.bitmask, "U8", {rows, cols / 8 + (cols % 8 != 0 ? 1 : 0)}},
             {names.compressed, dtype, {bytes_of(record.dtype, record.nnz) / static_cast<std::int64_t>(size_of(record.dtype))}}};
  } else {
    parts = {{logical_name, dtype, {rows, record.dtype == DType::i4 ? bytes_of(DType::i4, cols) : cols}}};
  }
  if (!is_scaled(record.dtype)) return parts;
  std::vector<std::int64_t> scale_shape{rows};
  if (record.scale_group < cols) scale_shape.push_back(num_scale_groups(cols, record.scale_group));
  parts.push_back({names.scale, "F32", scale_shape});
  return parts;
}

std::int64_t stored_bytes(const TensorRecord& record) {
  std::int64_t elements = 1;
  for (const std::int64_t size : record.shape) elements *= size;
  const bool sparse = record.encoding == TensorRecord::Encoding::bitmap;
  const std::int64_t rows = record.shape[0];
  std::int64_t bytes = bytes_of(record.dtype, sparse ? record.nnz : elements);
  if (sparse) bytes += rows * ((record.shape[1] + 7) / 8) + rows * 8;
  if (is_scaled(record.dtype)) bytes += rows * num_scale_groups(record.shape[1], record.scale_group) * 4;
  return bytes;
}

Manifest parse_manifest(std::string_view bytes) {
  Manifest manifest;
  manifest.digest = check_digest(bytes);
  const JsonValue root = parse_strict_json(bytes, kManifestName);
  const JsonFields top(root, kManifestName, "");
  check_version(top);
  manifest.model_id = hex_member(top, "model_id");
  manifest.producer = top.string("producer");
  manifest.architecture = top.string("architecture");
  check_source(top.object("source"));
  manifest.pruning_json = parse_pruning(top);
  manifest.files = parse_files(top.object("files"));
  manifest.tensors = parse_tensors(top.object("tensors"), manifest.files);
  check_model_id(manifest);

  std::set<std::string> announced;
  for (const JsonValue& feature : top.array("required_features")) announced.insert(*feature.as<std::string>());
  const auto require_feature = [&](const char* feature, const std::string& user) {
    if (announced.contains(feature)) return;
    top.fail("required_features", "\"" + std::string(feature) + "\", which tensor " + printable(user) + " uses",
             top.member("required_features").dump());
  };
  for (const auto& [name, record] : manifest.tensors) {
    if (record.encoding == TensorRecord::Encoding::bitmap) require_feature("bitmap", name);
    if (is_scaled(record.dtype)) require_feature("scales", name);
  }
  return manifest;
}

}  // namespace gossamer
