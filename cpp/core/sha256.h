// SHA-256 (FIPS 180-4), SHA-NI where the CPU has it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace gossamer {

using Sha256Digest = std::array<std::byte, 32>;

class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> data);
  Sha256Digest finish();

 private:
  std::array<std::uint32_t, 8> state_;
  std::array<std::byte, 64> block_{};
  std::uint64_t total_bytes_ = 0;
};

Sha256Digest sha256(std::span<const std::byte> data);
std::string to_hex(const Sha256Digest& digest);

}  // namespace gossamer
