// The bitmap record of 8-bit values: masks as in bitmap_tiles.cpp but in the byte layout's bit order, then one byte a kept value. A lane's
// values of a fragment lie together. FORMAT.md draws it.
#include <bit>
#include <cstring>

#include "sparse/record_block.h"

namespace gossamer {
namespace {

constexpr int kFragments = 8;
constexpr std::int64_t kMaskBytes = 2 * 32 * 4;

// Calls visit(mask word index, bit, row, col) in the order in which values are stored: fragment, lane, row half, column.
template <typename Visit>
void in_storage_order(const Visit& visit) {
  for (int fragment = 0; fragment < kFragments; ++fragment) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 4; ++i) {
          const RecordPosition at = record_position(fragment, lane, 2 * half + 4 * (i / 2) + i % 2);
          visit(fragment / 4 * 32 + lane, byte_mask_bit(fragment % 4, half, i), at.row, at.col);
        }
      }
    }
  }
}

std::int64_t byte_bitmap_bytes(const RecordBlock& block) { return kMaskBytes + block.count(); }

void byte_bitmap_encode(const RecordBlock& block, std::uint8_t* out, std::int64_t bytes) {
  std::memset(out, 0, static_cast<std::size_t>(bytes));
  std::uint32_t masks[64] = {};
  std::uint8_t* next = out + kMaskBytes;
  in_storage_order([&](int word, int bit, int row, int col) {
    if (!block.kept(row, col)) return;
    masks[word] |= std::uint32_t{1} << bit;
    *next++ = static_cast<std::uint8_t>(block.value(row, col));
  });
  std::memcpy(out, masks, kMaskBytes);
}

void byte_bitmap_decode(const std::uint8_t* in, std::int64_t bytes, RecordBlock& block, std::string_view name, std::int64_t record) {
  if (bytes < kMaskBytes) throw_bad_record(name, record, "bytes", ">= 256", std::to_string(bytes));
  std::uint32_t masks[64];
  std::memcpy(masks, in, kMaskBytes);
  std::int64_t count = 0;
  for (const std::uint32_t mask : masks) count += std::popcount(mask);
  const std::int64_t used = kMaskBytes + count;
  const std::int64_t expected = (used + kRecordUnit - 1) / kRecordUnit * kRecordUnit;
  if (bytes != expected) throw_bad_record(name, record, "bytes", std::to_string(expected), std::to_string(bytes));
  for (std::int64_t i = used; i < bytes; ++i) {
    if (in[i] != 0) throw_bad_record(name, record, "padding", "0", std::to_string(in[i]));
  }
  const std::uint8_t* next = in + kMaskBytes;
  in_storage_order([&](int word, int bit, int row, int col) {
    if ((masks[word] >> bit & 1U) != 0) block.keep(row, col, *next++);
  });
}

}  // namespace

const RecordCodec& byte_bitmap_codec() {
  static constexpr RecordCodec codec{byte_bitmap_bytes, byte_bitmap_encode, byte_bitmap_decode};
  return codec;
}

}  // namespace gossamer
