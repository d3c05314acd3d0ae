#include "core/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/sha256_blocks.h"

namespace gossamer {
namespace {

constexpr std::size_t kBlockBytes = 64;

Sha256Compress best_compress() {
  const Sha256Compress accelerated = sha256_compress_accelerated();
  return accelerated != nullptr ? accelerated : sha256_compress_portable;
}

void compress(Sha256State& state, const std::byte* blocks, std::size_t count) {
  static const Sha256Compress implementation = best_compress();
  implementation(state, blocks, count);
}

void store_big_endian(std::byte* out, std::uint32_t word) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<std::byte>(word >> (24 - 8 * i));
}

std::uint32_t load_big_endian(const std::byte* in) {
  std::uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word = (word << 8) | std::to_integer<std::uint32_t>(in[i]);
  return word;
}

}  // namespace

void sha256_compress_portable(Sha256State& state, const std::byte* blocks, std::size_t count) {
  for (; count > 0; --count, blocks += kBlockBytes) {
    std::array<std::uint32_t, 64> w;
    for (std::size_t i = 0; i < 16; ++i) w[i] = load_big_endian(blocks + 4 * i);
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const std::uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const std::uint32_t choose = (e & f) ^ (~e & g);
      const std::uint32_t t1 = h + s1 + choose + kSha256Constants[i] + w[i];
      const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const std::uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
      h = g;
      g = f;
      f = e;
      e = d + t1;
      d = c;
      c = b;
      b = a;
      a = t1 + s0 + majority;
    }
    const Sha256State rounds{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += rounds[i];
  }
}

// First 32 bits of the fractional parts of the square roots of the first 8 primes.
Sha256::Sha256() : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::update(std::span<const std::byte> data) {
  if (data.empty()) return;
  const std::size_t pending = total_bytes_ % kBlockBytes;
  total_bytes_ += data.size();
  if (pending != 0) {
    const std::size_t taken = std::min(kBlockBytes - pending, data.size());
    std::memcpy(block_.data() + pending, data.data(), taken);
    data = data.subspan(taken);
    if (pending + taken < kBlockBytes) return;
    compress(state_, block_.data(), 1);
  }
  const std::size_t whole = data.size() / kBlockBytes;
  if (whole != 0) compress(state_, data.data(), whole);
  data = data.subspan(whole * kBlockBytes);
  std::copy(data.begin(), data.end(), block_.begin());
}

Sha256Digest Sha256::finish() {
  const std::uint64_t bits = total_bytes_ * 8;
  std::array<std::byte, 2 * kBlockBytes> tail{};
  const std::size_t pending = total_bytes_ % kBlockBytes;
  std::copy_n(block_.begin(), pending, tail.begin());
  tail[pending] = std::byte{0x80};
  const std::size_t blocks = pending + 9 <= kBlockBytes ? 1 : 2;
  store_big_endian(tail.data() + blocks * kBlockBytes - 8, static_cast<std::uint32_t>(bits >> 32));
  store_big_endian(tail.data() + blocks * kBlockBytes - 4, static_cast<std::uint32_t>(bits));
  compress(state_, tail.data(), blocks);
  Sha256Digest digest;
  for (std::size_t i = 0; i < 8; ++i) store_big_endian(digest.data() + 4 * i, state_[i]);
  return digest;
}

Sha256Digest sha256(std::span<const std::byte> data) {
  Sha256 hash;
  hash.update(data);
  return hash.finish();
}

std::string to_hex(const Sha256Digest& digest) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * digest.size());
  for (const std::byte b : digest) {
    text += kDigits[std::to_integer<unsigned>(b) >> 4];
    text += kDigits[std::to_integer<unsigned>(b) & 15U];
  }
  return text;
}

}  // namespace gossamer
