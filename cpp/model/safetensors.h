// The header of a safetensors file, checked more strictly than the reference library does: no holes, no overlaps, offsets in the
// order of the header, no trailing bytes, data 8-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/manifest.h"

namespace gossamer {

inline constexpr std::uint64_t kMaxSafetensorsHeader = std::uint64_t{100} << 20;
inline constexpr std::uint64_t kSafetensorsLengthBytes = 8;

struct SafetensorsEntry {
  StoredTensor tensor;
  std::uint64_t begin = 0;  // bytes from the start of the file
  std::uint64_t end = 0;
};

// Bytes of the header (without its length), from the file's first 8 bytes.
std::uint64_t safetensors_header_bytes(std::span<const std::byte, kSafetensorsLengthBytes> length, std::uint64_t file_bytes,
                                       const std::string& file);

std::vector<SafetensorsEntry> parse_safetensors_header(std::string_view header, std::uint64_t file_bytes, const std::string& file);

// Throws one CheckpointError that lists what is missing, extra or different.
void require_same_tensors(const std::vector<SafetensorsEntry>& found, const std::vector<StoredTensor>& expected, const std::string& file);

// The first few of many problems, for one message: "a, b, c and 7 more".
std::string join_some(const std::vector<std::string>& items);

}  // namespace gossamer
