#include "sparse/tiled_weight.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "sparse/record_block.h"

namespace gossamer {

std::string_view name_of(TileFormat format) {
  switch (format) {
    case TileFormat::bitmap: return "bitmap";
    case TileFormat::tiled_csl: return "tiled_csl";
    case TileFormat::two_four: return "two_four";
  }
  return "";
}

int RecordBlock::count() const {
  int total = 0;
  for (const std::uint64_t row : mask) total += std::popcount(row);
  return total;
}

RowBlockReader::RowBlockReader(const SparseWeight& weight, std::int64_t row_block)
    : weight_(weight), row_begin_(row_block * kRecordRows), rows_(std::min(kRecordRows, weight.rows - row_begin_)) {
  const std::int64_t* offsets = weight.row_offsets.data<std::int64_t>() + row_begin_;
  std::copy_n(offsets, rows_, value_index_.begin());
}

void RowBlockReader::next_mask(RecordBlock& block) {
  const std::int64_t first_byte = record_++ * (kRecordCols / 8);
  const std::int64_t bytes = std::min<std::int64_t>(kRecordCols / 8, weight_.mask_stride() - first_byte);
  block.mask = {};
  for (std::int64_t r = 0; r < rows_; ++r) {
    const std::uint8_t* row = weight_.mask.data<std::uint8_t>() + (row_begin_ + r) * weight_.mask_stride();
    std::memcpy(&block.mask[static_cast<std::size_t>(r)], row + first_byte, static_cast<std::size_t>(bytes));
  }
}

void RowBlockReader::next(RecordBlock& block) {
  next_mask(block);
  const auto read = [&](const auto* values) {
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows_); ++r) {
      for (std::uint64_t bits = block.mask[r]; bits != 0; bits &= bits - 1) {
        block.values[r][static_cast<std::size_t>(std::countr_zero(bits))] = values[value_index_[r]++];
      }
    }
  };
  if (size_of(weight_.dtype()) == 1) {
    read(static_cast<const std::uint8_t*>(weight_.values.raw()));
  } else {
    read(static_cast<const std::uint16_t*>(weight_.values.raw()));
  }
}

void throw_bad_record(std::string_view name, std::int64_t record, std::string_view field, std::string expected, std::string found) {
  throw CheckpointError("packed weight is malformed", {.file = {},
                                                       .tensor = std::string(name),
                                                       .field = "record " + std::to_string(record) + " " + std::string(field),
                                                       .expected = std::move(expected),
                                                       .found = std::move(found),
                                                       .fix = "pack the weight again from its checkpoint"});
}

namespace {

const RecordCodec& codec_of(TileFormat format, DType dtype) {
  switch (format) {
    case TileFormat::bitmap: return size_of(dtype) == 1 ? byte_bitmap_codec() : bitmap_codec();
    case TileFormat::tiled_csl: return tiled_csl_codec();
    case TileFormat::two_four: return two_four_codec();
  }
  throw InvalidArgument("unknown tile format");
}

}  // namespace

TileSizes tile_sizes(const SparseWeight& weight, TileFormat format, ThreadPool& pool) {
  const RecordCodec& codec = codec_of(format, weight.dtype());
  TiledWeight shape;
  shape.rows = weight.rows;
  shape.cols = weight.cols;
  const std::int64_t per_block = shape.records_per_row_block();
  TileSizes sizes;
  sizes.offsets.resize(static_cast<std::size_t>(shape.num_records()) + 1);
  pool.parallel_for(shape.row_blocks(), 1, [&](std::int64_t begin, std::int64_t end) {
    RecordBlock block;
    for (std::int64_t b = begin; b < end; ++b) {
      RowBlockReader reader(weight, b);
      for (std::int64_t i = 0; i < per_block; ++i) {
        reader.next_mask(block);
        const std::int64_t units = (codec.bytes(block) + kRecordUnit - 1) / kRecordUnit;
        sizes.offsets[static_cast<std::size_t>(b * per_block + i)] = static_cast<std::int32_t>(units);
      }
    }
  });
  std::int64_t units = 0;
  for (std::int32_t& offset : sizes.offsets) {
    sizes.max_record_bytes = std::max(sizes.max_record_bytes, std::int64_t{offset} * kRecordUnit);
    units += std::exchange(offset, static_cast<std::int32_t>(units));
    require(units <= std::numeric_limits<std::int32_t>::max(), "pack_tiles: one weight packs to more than 32 GiB; slice it");
  }
  return sizes;
}

OwnedTiledWeight pack_tiles(const SparseWeight& weight, TileFormat format, Allocator& allocator, ThreadPool& pool) {
  const bool is_byte = weight.dtype() == DType::i8 || weight.dtype() == DType::e4m3;
  require(weight.dtype() == DType::f16 || weight.dtype() == DType::bf16 || is_byte, "pack_tiles: values must be f16, bf16, i8 or e4m3");
  require(!is_byte || format == TileFormat::bitmap, "pack_tiles: 8-bit values go into bitmap tiles only");
  require(!is_byte || weight.group == weight.cols, "pack_tiles: 8-bit values must have one scale a row");
  const RecordCodec& codec = codec_of(format, weight.dtype());
  const TileSizes sizes = tile_sizes(weight, format, pool);
  TiledWeight view;
  view.format = format;
  view.rows = weight.rows;
  view.cols = weight.cols;
  view.nnz = weight.nnz();
  view.dtype = weight.dtype();
  view.max_record_bytes = sizes.max_record_bytes;
  const std::int64_t per_block = view.records_per_row_block();
  OwnedTiledWeight owned;
  owned.offsets = Buffer(allocator, sizes.offsets.size() * sizeof(std::int32_t));
  view.offsets = owned.offsets.view(DType::i32, {std::ssize(sizes.offsets)});
  auto* offsets = view.offsets.data<std::int32_t>();
  std::copy(sizes.offsets.begin(), sizes.offsets.end(), offsets);
  const std::int64_t bytes = std::int64_t{sizes.offsets.back()} * kRecordUnit;
  owned.data = Buffer(allocator, static_cast<std::size_t>(bytes));
  view.data = owned.data.view(DType::u8, {bytes});
  pool.parallel_for(view.row_blocks(), 1, [&](std::int64_t begin, std::int64_t end) {
    RecordBlock block;
    for (std::int64_t b = begin; b < end; ++b) {
      RowBlockReader reader(weight, b);
      for (std::int64_t i = b * per_block; i < (b + 1) * per_block; ++i) {
        reader.next(block);
        codec.encode(block, view.data.data<std::uint8_t>() + std::int64_t{offsets[i]} * kRecordUnit,
                     std::int64_t{offsets[i + 1] - offsets[i]} * kRecordUnit);
      }
    }
  });
  if (is_byte) {
    owned.scales = Buffer(allocator, static_cast<std::size_t>(weight.rows) * sizeof(float));
    view.scales = owned.scales.view(DType::f32, {weight.rows});
    std::memcpy(view.scales.raw(), weight.scales.raw(), static_cast<std::size_t>(view.scales.nbytes()));
  }
  owned.view = view;
  return owned;
}

namespace {

// Decodes record after record of each row block; visit(row_block, record_in_block, block).
template <typename Visit>
void for_each_record(const TiledWeight& weight, std::string_view name, const Visit& visit) {
  const RecordCodec& codec = codec_of(weight.format, weight.dtype);
  const auto* offsets = weight.offsets.data<std::int32_t>();
  const std::int64_t per_block = weight.records_per_row_block();
  for (std::int64_t i = 0; i < weight.num_records(); ++i) {
    RecordBlock block;
    codec.decode(weight.data.data<std::uint8_t>() + offsets[i] * kRecordUnit, (offsets[i + 1] - offsets[i]) * kRecordUnit, block, name, i);
    visit(i / per_block, i % per_block, block);
  }
}

}  // namespace

OwnedSparseWeight unpack_tiles(const TiledWeight& weight, Allocator& allocator) {
  OwnedSparseWeight owned(allocator, weight.rows, weight.cols, weight.nnz, weight.dtype, weight.scales.defined() ? weight.cols : 0);
  if (weight.scales.defined()) {
    std::memcpy(owned.view.scales.raw(), weight.scales.raw(), static_cast<std::size_t>(weight.scales.nbytes()));
  }
  const std::int64_t stride = owned.view.mask_stride();
  auto* mask = owned.view.mask.data<std::uint8_t>();
  auto* row_offsets = owned.view.row_offsets.data<std::int64_t>();
  auto* values = static_cast<std::uint8_t*>(owned.view.values.raw());
  const std::size_t value_bytes = size_of(weight.dtype);
  std::vector<std::vector<std::uint16_t>> row_values(kRecordRows);
  std::int64_t next = 0;
  row_offsets[0] = 0;
  for_each_record(weight, "unpack", [&](std::int64_t row_block, std::int64_t record, const RecordBlock& block) {
    const std::int64_t rows = std::min(kRecordRows, weight.rows - row_block * kRecordRows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = static_cast<std::size_t>(r);
      const std::int64_t first = record * (kRecordCols / 8);
      std::memcpy(mask + (row_block * kRecordRows + r) * stride + first, &block.mask[row],
                  static_cast<std::size_t>(std::min<std::int64_t>(kRecordCols / 8, stride - first)));
      for (int c = 0; c < kRecordCols; ++c) {
        if (block.kept(static_cast<int>(r), c)) row_values[row].push_back(block.value(static_cast<int>(r), c));
      }
      if (record + 1 == weight.records_per_row_block()) {
        check(next + static_cast<std::int64_t>(row_values[row].size()) <= weight.nnz, "unpack_tiles: more values than nnz");
        for (const std::uint16_t value : row_values[row])
          std::memcpy(values + static_cast<std::size_t>(next++) * value_bytes, &value, value_bytes);
        row_offsets[row_block * kRecordRows + r + 1] = next;
        row_values[row].clear();
      }
    }
  });
  check(next == weight.nnz, "unpack_tiles: fewer values than nnz");
  return owned;
}

void validate_tiles(const TiledWeight& weight, std::string_view name) {
  const auto* offsets = weight.offsets.data<std::int32_t>();
  const std::int64_t records = weight.num_records();
  if (offsets[0] != 0) throw_bad_record(name, 0, "offset", "0", std::to_string(offsets[0]));
  for (std::int64_t i = 0; i < records; ++i) {
    if (offsets[i + 1] < offsets[i])
      throw_bad_record(name, i, "offset", ">= " + std::to_string(offsets[i]), std::to_string(offsets[i + 1]));
    if ((offsets[i + 1] - offsets[i]) * kRecordUnit > weight.max_record_bytes) {
      throw_bad_record(name, i, "bytes", "<= " + std::to_string(weight.max_record_bytes),
                       std::to_string((offsets[i + 1] - offsets[i]) * kRecordUnit));
    }
  }
  if (offsets[records] * kRecordUnit != weight.data.nbytes()) {
    throw_bad_record(name, records, "offset", std::to_string(weight.data.nbytes() / kRecordUnit), std::to_string(offsets[records]));
  }
  std::int64_t total = 0;
  for_each_record(weight, name, [&](std::int64_t row_block, std::int64_t record, const RecordBlock& block) {
    const std::int64_t index = row_block * weight.records_per_row_block() + record;
    for (int r = 0; r < kRecordRows; ++r) {
      for (int c = 0; c < kRecordCols; ++c) {
        const bool inside = row_block * kRecordRows + r < weight.rows && record * kRecordCols + c < weight.cols;
        if (!inside && block.kept(r, c)) throw_bad_record(name, index, "mask", "no element outside the matrix", "one at the padding");
      }
    }
    total += block.count();
  });
  if (total != weight.nnz) throw_bad_record(name, records, "nnz", std::to_string(weight.nnz), std::to_string(total));
}

}  // namespace gossamer
