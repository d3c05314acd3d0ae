// The bitmap record: 2 tiles x 32 lanes of u32 masks, then the kept values. FORMAT.md draws it.
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

void bitmap_encode(const RecordBlock& block, std::uint8_t* out, std::int64_t bytes) {
  std::memset(out, 0, static_cast<std::size_t>(bytes));
  std::uint32_t masks[64] = {};
  std::uint8_t* next = out + kMaskBytes;
  in_storage_order([&](int word, int bit, int row, int col) {
    if (!block.kept(row, col)) return;
    masks[word] |= std::uint32_t{1} << bit;
    const std::uint16_t value = block.value(row, col);
    std::memcpy(next, &value, 2);
    next += 2;
  });
  std::memcpy(out, masks, kMaskBytes);
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
