// gossamer.json: parsed from its raw bytes and checked for everything that can be known without the other files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint.h"

namespace gossamer {

inline constexpr const char* kManifestName = "gossamer.json";
inline constexpr std::uint64_t kMaxManifestBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{16} << 20;
inline constexpr std::int64_t kFormatVersion = 1;

// Throws ChecksumError (digests), CheckpointVersionError (version, features), UnsafePathError (file names), CheckpointError (the rest).
Manifest parse_manifest(std::string_view bytes);

// A tensor as a shard stores it; a logical tensor is one (dense) or four of them (bitmap), and one more where values have scales, in the
// order in which they are read.
struct StoredTensor {
  std::string name;
  std::string dtype;  // safetensors' spelling: "F32", "BF16", "I64", ...
  std::vector<std::int64_t> shape;
};
struct PartNames {
  explicit PartNames(std::string_view logical_name);  // ends with ".weight"
  std::string shape, compressed, bitmask, row_offsets, scale;
};
std::vector<StoredTensor> stored_tensors(const std::string& logical_name, const TensorRecord& record);

std::string shape_text(const std::vector<std::int64_t>& shape);  // "[2, 3]"
bool is_shard_name(std::string_view file_name);                  // ends with ".safetensors"

}  // namespace gossamer
