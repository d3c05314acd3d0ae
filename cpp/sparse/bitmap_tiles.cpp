// The bitmap record: 2 tiles x 32 lanes of u32 masks, then the kept values. FORMAT.md draws it.
#include <array>
#include <bit>
#include <cstring>

#include "sparse/record_block.h"

namespace gossamer {
namespace {

constexpr int kFragments = 8;
constexpr std::int64_t kMaskBytes = 2 * 32 * 4;

// Calls visit(mask word index, bit, row, col) in the order in which values are stored: fragment, half, lane, element.
template <typename Visit>
void in_storage_order(const Visit& visit) {
  for (int fragment = 0; fragment < kFragments; ++fragment) {
    for (int half = 0; half < 2; ++half) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int e = 4 * half; e < 4 * half + 4; ++e) {
          const RecordPosition at = record_position(fragment, lane, e);
          visit(fragment / 4 * 32 + lane, 8 * (fragment % 4) + e, at.row, at.col);
        }
      }
    }
  }
}

std::int64_t bitmap_bytes(const RecordBlock& block) { return kMaskBytes + 2 * block.count(); }

// The order of in_storage_order, four weights at a time (a lane's half fragment) and without a branch: every value is written, and the
// next one over it unless it was kept.
void bitmap_encode(const RecordBlock& block, std::uint8_t* out, std::int64_t bytes) {
  std::array<std::uint32_t, 64> masks{};
  std::array<std::uint16_t, kRecordRows * kRecordCols + 1> values;
  std::size_t count = 0;
  const auto push = [&](std::uint16_t value, std::uint32_t is_kept) {
    values[count] = value;
    count += is_kept;
  };
  for (std::size_t part = 0; part < 2 * kFragments; ++part) {
    const std::size_t tile = part / 8, half = part % 2, in_tile = part / 2 % 4;
    const std::size_t first_column = 32 * (in_tile / 2) + 4 * (in_tile % 2) + 2 * half;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      const std::size_t row = 16 * tile + lane / 4, column = first_column + 8 * (lane % 4);
      const auto upper = static_cast<std::uint32_t>(block.mask[row] >> column & 3U);
      const auto lower = static_cast<std::uint32_t>(block.mask[row + 8] >> column & 3U);
      masks[32 * tile + lane] |= (upper | lower << 2) << (8 * in_tile + 4 * half);
      push(block.values[row][column], upper & 1U);
      push(block.values[row][column + 1], upper >> 1);
      push(block.values[row + 8][column], lower & 1U);
      push(block.values[row + 8][column + 1], lower >> 1);
    }
  }
  const std::size_t used = static_cast<std::size_t>(kMaskBytes) + 2 * count;
  std::memcpy(out, masks.data(), sizeof masks);
  std::memcpy(out + kMaskBytes, values.data(), 2 * count);
  std::memset(out + used, 0, static_cast<std::size_t>(bytes) - used);
}

void bitmap_decode(const std::uint8_t* in, std::int64_t bytes, RecordBlock& block, std::string_view name, std::int64_t record) {
  if (bytes < kMaskBytes) throw_bad_record(name, record, "bytes", ">= 256", std::to_string(bytes));
  std::uint32_t masks[64];
  std::memcpy(masks, in, kMaskBytes);
  std::int64_t count = 0;
  for (const std::uint32_t mask : masks) count += std::popcount(mask);
  const std::int64_t used = kMaskBytes + 2 * count;
  const std::int64_t expected = (used + kRecordUnit - 1) / kRecordUnit * kRecordUnit;
  if (bytes != expected) throw_bad_record(name, record, "bytes", std::to_string(expected), std::to_string(bytes));
  for (std::int64_t i = used; i < bytes; ++i) {
    if (in[i] != 0) throw_bad_record(name, record, "padding", "0", std::to_string(in[i]));
  }
  const std::uint8_t* next = in + kMaskBytes;
  in_storage_order([&](int word, int bit, int row, int col) {
    if ((masks[word] >> bit & 1U) == 0) return;
    std::uint16_t value = 0;
    std::memcpy(&value, next, 2);
    block.keep(row, col, value);
    next += 2;
  });
}

}  // namespace

const RecordCodec& bitmap_codec() {
  static constexpr RecordCodec codec{bitmap_bytes, bitmap_encode, bitmap_decode};
  return codec;
}

}  // namespace gossamer
