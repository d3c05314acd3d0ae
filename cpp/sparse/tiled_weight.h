// Tile formats: a sparse weight packed for the GPU kernels. FORMAT.md draws one tile. Immutable; knows its bytes.
//
// A weight [m, k] is cut into records of 32 rows x 64 columns (zero-padded at the edges), row block after row block; within a
// row block, along k. Record i lies at data + 16 * offsets[i] and ends at 16 * offsets[i + 1].
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/memory.h"
#include "core/thread_pool.h"
#include "sparse/sparse_weight.h"

namespace gossamer {

enum class TileFormat {
  bitmap,     // masks, then the kept values in fragment order: 2 (1 - s) + 1/8 bytes a weight, (1 - s) + 1/8 with 8-bit values
  tiled_csl,  // (value, location) pairs as in Flash-LLM's Tiled-CSL: 4 (1 - s) bytes a weight; work in proportion to non-zeros
  two_four    // 2:4 for sparse tensor cores, and pairs for what does not fit: 2 (1 - s) + 3/16 bytes a weight and 2 for one left over
};
std::string_view name_of(TileFormat format);

inline constexpr std::int64_t kRecordRows =
    32;  // two tiles of 16 x 64, which share their activations; a tile is four mma fragments of 16 x 16
inline constexpr std::int64_t kRecordCols = 64;
inline constexpr std::int64_t kRecordUnit = 16;  // bytes; records start and end on it, as bulk copies must

struct TiledWeight {
  TileFormat format = TileFormat::bitmap;
  std::int64_t rows = 0;  // m
  std::int64_t cols = 0;  // k
  std::int64_t nnz = 0;
  DType dtype = DType::f16;  // f16 or bf16; of bitmap tiles also i8 or e4m3, with scales
  Tensor data;               // u8 [bytes]
  Tensor offsets;            // i32 [row_blocks * record_cols + 1], in units of kRecordUnit
  Tensor scales;             // f32 [rows], what i8 and e4m3 values are multiplied by; else undefined
  std::int64_t max_record_bytes = 0;

  std::int64_t row_blocks() const { return (rows + kRecordRows - 1) / kRecordRows; }
  std::int64_t records_per_row_block() const { return (cols + kRecordCols - 1) / kRecordCols; }
  std::int64_t num_records() const { return row_blocks() * records_per_row_block(); }
  std::int64_t nbytes() const { return data.nbytes() + offsets.nbytes() + scales.nbytes(); }
};

struct OwnedTiledWeight {
  Buffer data;
  Buffer offsets;
  Buffer scales;
  TiledWeight view;
};

// Where element `e` (0..7) of lane `lane` in fragment `fragment` (0..7) of a record lies. The order of columns within a tile is chosen so
// that a lane's B operand, X[n, columns], is 16 contiguous bytes per two fragments: no packing of activations.
struct RecordPosition {
  int row;  // 0..31
  int col;  // 0..63
};
constexpr RecordPosition record_position(int fragment, int lane, int element) {
  const int tile = fragment / 4, f = fragment % 4, half = element / 4, quad = lane % 4;
  return {16 * tile + lane / 4 + 8 * (element / 2 % 2), 32 * (f / 2) + 8 * quad + 4 * (f % 2) + 2 * half + element % 2};
}

// Four columns of one row, two of which a lane's register of mma.sp.m16n8k32 holds: TileFormat::two_four's unit.
struct TwoFourGroup {
  int tile, fragment;  // 0, 1: rows 16 tile .., columns 32 fragment ..
  int half;            // registers 0, 1 or 2, 3
  int lane;            // 4g + q
  int pair;            // register within the half: row g or g + 8

  constexpr int row() const { return 16 * tile + lane / 4 + 8 * pair; }
  // Column of the record of position j. A lane's B operand is 16 contiguous bytes of a row of x, as for dense fragments.
  constexpr int column(int j) const { return 32 * fragment + 16 * (lane % 2) + 2 * (lane % 4 / 2) + 4 * half + j % 2 + 8 * (j / 2); }
  // Of the four bits of metadata, as the tensor cores want them: which of 64 words, and where in it.
  constexpr int metadata_word() const { return 32 * tile + lane / 4 * 4 + 2 * fragment + half; }
  constexpr int metadata_shift() const { return 16 * pair + 4 * (lane % 4); }
  // Of the two bits that say which slots are filled, in the lane's word.
  constexpr int slot_shift() const { return 8 * (2 * fragment + half) + 4 * tile + 2 * pair; }
  // Halfword of position j = 2, 3 in the fragments of the rest.
  constexpr int rest_location(int j) const { return ((2 * tile + fragment) * 32 + lane) * 8 + 2 * (2 * half + pair) + j - 2; }
};

// Which bit of a lane's mask word stands for column i (0..3) of a row (half 0: g, 1: g + 8) in a fragment of a tile, with 8-bit values.
constexpr int byte_mask_bit(int fragment, int half, int i) { return 8 * fragment + 4 * half + i; }

// Where a weight's records will lie, from its masks alone: TiledWeight::offsets, and the size of the largest record.
struct TileSizes {
  std::vector<std::int32_t> offsets;
  std::int64_t max_record_bytes = 0;
};
TileSizes tile_sizes(const SparseWeight& weight, TileFormat format, ThreadPool& pool);

// weight: validated; values f16 or bf16, for bitmap tiles also i8 or e4m3 with one scale a row. Uses all threads of the pool.
OwnedTiledWeight pack_tiles(const SparseWeight& weight, TileFormat format, Allocator& allocator, ThreadPool& pool);
// Exact inverse: unpack(pack(w)) == w, masks and values.
OwnedSparseWeight unpack_tiles(const TiledWeight& weight, Allocator& allocator);
// Structure: offsets start at 0, never decrease, end at data's size; every record's length is what its masks or counts say; padding and
// out-of-range bits are 0; locations are in range and distinct. Throws CheckpointError naming the record.
void validate_tiles(const TiledWeight& weight, std::string_view name);

}  // namespace gossamer
