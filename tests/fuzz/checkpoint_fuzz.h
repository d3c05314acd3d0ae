// How a checkpoint directory becomes one string of bytes for a fuzzer, and the seeds to start from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "support/memory_directory.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace gossamer::fuzz {

// Which digests are made to match before loading: a fuzzer cannot invert SHA-256.
enum class Sealing : std::uint8_t { none, manifest, everything };

std::string pack(Sealing sealing, const testing::Files& files);
// Any bytes are a directory.
testing::Files unpack(std::string_view input);
std::vector<std::string> seeds();  // the intact checkpoint and every named malformed one

}  // namespace gossamer::fuzz
