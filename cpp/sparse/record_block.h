// One record (32 x 64) of a sparse weight as a small dense block with a mask: the common ground of all tile formats.
#pragma once

#include <array>
#include <cstdint>

#include "sparse/tiled_weight.h"

namespace gossamer {

struct RecordBlock {
  static_assert(kRecordCols == 64);
  std::array<std::uint64_t, kRecordRows> mask{};                             // bit c = column c
  std::array<std::array<std::uint16_t, kRecordCols>, kRecordRows> values{};  // 8-bit ones in the low half

  bool kept(int row, int col) const { return mask[static_cast<std::size_t>(row)] >> col & 1U; }
  std::uint16_t value(int row, int col) const { return values[static_cast<std::size_t>(row)][static_cast<std::size_t>(col)]; }
  void keep(int row, int col, std::uint16_t v) {
    mask[static_cast<std::size_t>(row)] |= std::uint64_t{1} << col;
    values[static_cast<std::size_t>(row)][static_cast<std::size_t>(col)] = v;
  }
  int count() const;
};

// Walks the rows of a row block along k; next() yields records 0, 1, ... in order.
class RowBlockReader {
 public:
  RowBlockReader(const SparseWeight& weight, std::int64_t row_block);
  void next_mask(RecordBlock& block);  // mask only: for sizing
  void next(RecordBlock& block);

 private:
  const SparseWeight& weight_;
  std::int64_t row_begin_;
  std::int64_t rows_;
  std::int64_t record_ = 0;
  std::array<std::int64_t, kRecordRows> value_index_{};
};

// A format knows the bytes of one record.
struct RecordCodec {
  std::int64_t (*bytes)(const RecordBlock& block);
  void (*encode)(const RecordBlock& block, std::uint8_t* out, std::int64_t bytes);
  // Throws CheckpointError("...: why") for a malformed record.
  void (*decode)(const std::uint8_t* in, std::int64_t bytes, RecordBlock& block, std::string_view name, std::int64_t record);
};
const RecordCodec& bitmap_codec();
const RecordCodec& byte_bitmap_codec();  // of 8-bit values
const RecordCodec& tiled_csl_codec();
const RecordCodec& two_four_codec();
[[noreturn]] void throw_bad_record(std::string_view name, std::int64_t record, std::string_view field, std::string expected,
                                   std::string found);

}  // namespace gossamer
