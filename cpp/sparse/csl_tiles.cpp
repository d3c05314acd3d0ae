// The Tiled-CSL record (Xia et al., Flash-LLM, VLDB 2023, §4.2): per non-zero one 32-bit word, value in the low half, location in the high
// half. A location is a halfword index into the tile expanded in mma fragment order. Words are ordered so that 32 consecutive ones fall
// into different shared-memory banks where the tile allows it.
#include <algorithm>
#include <array>
#include <cstring>
#include <functional>

#include "sparse/record_block.h"

namespace gossamer {
namespace {

constexpr std::int64_t kHeaderBytes = 16;  // u32 count of tile 0, u32 count of tile 1, 8 zero bytes
constexpr int kTileElements = 16 * 64;
constexpr std::uint32_t kBanks = 32;

// Location (halfword) of (lane, fragment in tile, element): the lane's eight halfwords of a fragment are 16 contiguous bytes.
constexpr int location_of(int fragment, int lane, int element) { return (fragment * 32 + lane) * 8 + element; }
constexpr int bank_of(int location) { return location / 2 % static_cast<int>(kBanks); }

std::int64_t csl_bytes(const RecordBlock& block) { return kHeaderBytes + 4 * block.count(); }

// The words of a tile by bank; a bank has 32 locations.
struct Banks {
  std::array<std::array<std::uint32_t, 32>, kBanks> words;
  std::array<std::uint16_t, kBanks> sizes{};

  void add(int bank, std::uint32_t word) {
    const auto b = static_cast<std::size_t>(bank);
    words[b][sizes[b]++] = word;
  }
};

// Rounds of 32 words; each round takes from the fullest banks first, one word a bank as long as 32 banks are non-empty. Returns the end.
std::uint32_t* order_by_bank(Banks& banks, std::size_t left, std::uint32_t* out) {
  std::array<std::uint32_t, kBanks> fullest;  // size, then the lower bank first
  while (left > 0) {
    std::size_t round = std::min<std::size_t>(left, 32);
    left -= round;
    while (round > 0) {
      for (std::uint32_t b = 0; b < kBanks; ++b) fullest[b] = std::uint32_t{banks.sizes[b]} << 8 | (kBanks - 1 - b);
      std::sort(fullest.begin(), fullest.end(), std::greater<>());
      for (std::size_t i = 0; i < kBanks && round > 0 && fullest[i] >> 8 > 0; ++i, --round) {
        const std::size_t bank = kBanks - 1 - (fullest[i] & 0xffU);
        *out++ = banks.words[bank][--banks.sizes[bank]];
      }
    }
  }
  return out;
}

void csl_encode(const RecordBlock& block, std::uint8_t* out, std::int64_t bytes) {
  std::memset(out, 0, static_cast<std::size_t>(bytes));
  std::array<std::uint32_t, 2 * kTileElements> words;
  std::uint32_t* next = words.data();
  for (int tile = 0; tile < 2; ++tile) {
    Banks banks;
    std::uint32_t count = 0;
    for (int f = 0; f < 4; ++f) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int e = 0; e < 8; ++e) {
          const RecordPosition at = record_position(4 * tile + f, lane, e);
          if (!block.kept(at.row, at.col)) continue;
          const int location = location_of(f, lane, e);
          banks.add(bank_of(location), static_cast<std::uint32_t>(location) << 16 | block.value(at.row, at.col));
          ++count;
        }
      }
    }
    std::memcpy(out + 4 * tile, &count, 4);
    next = order_by_bank(banks, count, next);
  }
  std::memcpy(out + kHeaderBytes, words.data(), 4 * static_cast<std::size_t>(next - words.data()));
}

void csl_decode(const std::uint8_t* in, std::int64_t bytes, RecordBlock& block, std::string_view name, std::int64_t record) {
  if (bytes < kHeaderBytes) throw_bad_record(name, record, "bytes", ">= 16", std::to_string(bytes));
  std::uint32_t header[4];
  std::memcpy(header, in, sizeof header);
  const std::int64_t used = kHeaderBytes + 4 * (std::int64_t{header[0]} + header[1]);
  const std::int64_t expected = (used + kRecordUnit - 1) / kRecordUnit * kRecordUnit;
  if (header[0] > kTileElements || header[1] > kTileElements || bytes != expected || header[2] != 0 || header[3] != 0) {
    throw_bad_record(name, record, "counts", std::to_string(bytes) + " bytes", std::to_string(expected) + " bytes");
  }
  for (std::int64_t i = used; i < bytes; ++i) {
    if (in[i] != 0) throw_bad_record(name, record, "padding", "0", std::to_string(in[i]));
  }
  const std::uint8_t* next = in + kHeaderBytes;
  for (int tile = 0; tile < 2; ++tile) {
    for (std::uint32_t i = 0; i < header[tile]; ++i, next += 4) {
      std::uint32_t word = 0;
      std::memcpy(&word, next, 4);
      const int location = static_cast<int>(word >> 16);
      if (location >= kTileElements) throw_bad_record(name, record, "location", "< 1024", std::to_string(location));
      const RecordPosition at = record_position(4 * tile + location / 256, location / 8 % 32, location % 8);
      if (block.kept(at.row, at.col)) throw_bad_record(name, record, "location", "distinct", std::to_string(location) + " twice");
      block.keep(at.row, at.col, static_cast<std::uint16_t>(word & 0xffffU));
    }
  }
}

}  // namespace

const RecordCodec& tiled_csl_codec() {
  static constexpr RecordCodec codec{csl_bytes, csl_encode, csl_decode};
  return codec;
}

}  // namespace gossamer
