// The 2:4 record: what fits the 2:4 form of the sparse tensor cores, as their metadata and a bit per slot, and the rest as in Tiled-CSL.
// FORMAT.md draws it.
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "sparse/record_block.h"

namespace gossamer {
namespace {

constexpr std::int64_t kSlotBytes = 256, kCountBytes = 384, kHeaderBytes = 388;  // offsets of the slots, the rest's count, and its words
constexpr int kMostRest = 1024;

// Of a group's four columns (bit j: kept), the two positions that its slots hold, which slots are filled (bits 0, 1), and what is left.
struct GroupCode {
  int position[2];
  unsigned filled, rest;
  std::uint32_t metadata() const { return static_cast<std::uint32_t>(position[0] | position[1] << 2); }
};
constexpr GroupCode code_of(unsigned kept) {
  if (kept == 0) return {{0, 1}, 0, 0};
  const int first = std::countr_zero(kept);
  const unsigned others = kept & (kept - 1);
  if (others == 0) return first < 3 ? GroupCode{{first, 3}, 1, 0} : GroupCode{{0, 3}, 2, 0};  // positions must ascend
  return {{first, std::countr_zero(others)}, 3, others & (others - 1)};
}

constexpr auto kCodes = [] {
  std::array<GroupCode, 16> codes{};
  for (unsigned kept = 0; kept < 16; ++kept) codes[kept] = code_of(kept);
  return codes;
}();

// Calls visit(group) for the groups of a record in the order in which values are stored.
template <typename Visit>
void for_each_group(const Visit& visit) {
  for (int tile = 0; tile < 2; ++tile) {
    for (int fragment = 0; fragment < 2; ++fragment) {
      for (int half = 0; half < 2; ++half) {
        for (int lane = 0; lane < 32; ++lane) {
          for (int pair = 0; pair < 2; ++pair) visit(TwoFourGroup{tile, fragment, half, lane, pair});
        }
      }
    }
  }
}

unsigned kept_of(const RecordBlock& block, const TwoFourGroup& group) {
  const std::uint64_t columns = block.mask[static_cast<std::size_t>(group.row())] >> group.column(0);
  return static_cast<unsigned>((columns & 3U) | (columns >> 6 & 0xcU));  // columns 0, 1, 8, 9
}

std::int64_t two_four_bytes(const RecordBlock& block) {
  std::int64_t bytes = kHeaderBytes;
  for_each_group([&](const TwoFourGroup& group) {
    const GroupCode& code = kCodes[kept_of(block, group)];
    bytes += 2 * std::popcount(code.filled) + 4 * std::popcount(code.rest);
  });
  return bytes;
}

void two_four_encode(const RecordBlock& block, std::uint8_t* out, std::int64_t bytes) {
  std::memset(out, 0, static_cast<std::size_t>(bytes));
  std::array<std::uint32_t, 64> metadata{};
  std::array<std::uint32_t, 32> slots{};
  std::array<std::uint16_t, kMostRest + 1> values;
  std::array<std::uint32_t, kMostRest> rest;
  std::size_t num_values = 0, num_rest = 0;
  for_each_group([&](const TwoFourGroup& group) {
    const GroupCode& code = kCodes[kept_of(block, group)];
    metadata[static_cast<std::size_t>(group.metadata_word())] |= code.metadata() << group.metadata_shift();
    slots[static_cast<std::size_t>(group.lane)] |= code.filled << group.slot_shift();
    for (int slot = 0; slot < 2; ++slot) {  // written in any case: without a branch
      values[num_values] = block.value(group.row(), group.column(code.position[slot]));
      num_values += code.filled >> slot & 1U;
    }
    for (int j = 2; j < 4 && code.rest != 0; ++j) {
      if ((code.rest >> j & 1U) == 0) continue;
      rest[num_rest++] = static_cast<std::uint32_t>(group.rest_location(j)) << 16 | block.value(group.row(), group.column(j));
    }
  });
  const auto count = static_cast<std::uint32_t>(num_rest);
  std::memcpy(out, metadata.data(), sizeof metadata);
  std::memcpy(out + kSlotBytes, slots.data(), sizeof slots);
  std::memcpy(out + kCountBytes, &count, 4);
  std::memcpy(out + kHeaderBytes, rest.data(), 4 * num_rest);
  std::memcpy(out + kHeaderBytes + 4 * num_rest, values.data(), 2 * num_values);
}

void two_four_decode(const std::uint8_t* in, std::int64_t bytes, RecordBlock& block, std::string_view name, std::int64_t record) {
  if (bytes < kHeaderBytes) throw_bad_record(name, record, "bytes", ">= 388", std::to_string(bytes));
  std::array<std::uint32_t, 64> metadata;
  std::array<std::uint32_t, 32> slots;
  std::uint32_t count = 0;
  std::memcpy(metadata.data(), in, sizeof metadata);
  std::memcpy(slots.data(), in + kSlotBytes, sizeof slots);
  std::memcpy(&count, in + kCountBytes, 4);
  std::int64_t num_values = 0;
  for (const std::uint32_t word : slots) num_values += std::popcount(word);
  const std::int64_t used = kHeaderBytes + 4 * std::int64_t{count} + 2 * num_values;
  const std::int64_t expected = (used + kRecordUnit - 1) / kRecordUnit * kRecordUnit;
  if (count > kMostRest || bytes != expected) {
    throw_bad_record(name, record, "counts", std::to_string(bytes) + " bytes", std::to_string(expected) + " bytes");
  }
  const std::uint8_t* next = in + kHeaderBytes + 4 * static_cast<std::size_t>(count);
  std::vector<TwoFourGroup> groups(512);  // by location
  for_each_group([&](const TwoFourGroup& group) {
    groups[static_cast<std::size_t>(group.rest_location(2) / 2)] = group;
    const std::uint32_t filled = slots[static_cast<std::size_t>(group.lane)] >> group.slot_shift() & 3U;
    const std::uint32_t code = metadata[static_cast<std::size_t>(group.metadata_word())] >> group.metadata_shift() & 0xfU;
    for (int slot = 0; slot < 2; ++slot) {
      if ((filled >> slot & 1U) == 0) continue;
      std::uint16_t value = 0;
      std::memcpy(&value, next, 2);
      next += 2;
      block.keep(group.row(), group.column(static_cast<int>(code >> (2 * slot) & 3U)), value);
    }
  });
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint32_t word = 0;
    std::memcpy(&word, in + kHeaderBytes + 4 * static_cast<std::size_t>(i), 4);
    const int location = static_cast<int>(word >> 16);
    if (location >= kMostRest) throw_bad_record(name, record, "location", "< 1024", std::to_string(location));
    const TwoFourGroup& group = groups[static_cast<std::size_t>(location / 2)];
    block.keep(group.row(), group.column(2 + location % 2), static_cast<std::uint16_t>(word & 0xffffU));
  }
  // There is one way to write a block: whatever else is wrong (positions, twice the same element, padding) shows as a difference.
  std::vector<std::uint8_t> again(static_cast<std::size_t>(bytes));
  if (two_four_bytes(block) == used) two_four_encode(block, again.data(), bytes);
  for (std::int64_t i = 0; i < bytes; ++i) {
    const auto byte = static_cast<std::size_t>(i);
    if (again[byte] != in[i]) {
      throw_bad_record(name, record, "byte " + std::to_string(i), std::to_string(again[byte]), std::to_string(in[i]));
    }
  }
}

}  // namespace

const RecordCodec& two_four_codec() {
  static constexpr RecordCodec codec{two_four_bytes, two_four_encode, two_four_decode};
  return codec;
}

}  // namespace gossamer
