// Packed activations: what a kernel reads of x for one record lies together, in the column order of the records (sparse/FORMAT.md), zero
// beyond n and k. The layouts are ordered [passes][records]; those of 16-bit values take n tiles * 1024 bytes a record, bytes half of it.
//
// fragments (mma):    [n tiles][2 pieces][32 lanes][8 values]: piece i of a lane is 8 values of its token from column 32 i + 8 (lane % 4)
// on core matrices (wgmma): [4 fragments][n tiles][2 halves][8 tokens][8 values]
// bytes (mma): [n tiles][32 lanes][2 pieces][8 values], the pieces as above
// bytes on core matrices (wgmma): [2 pieces][n tiles][2 halves][8 tokens][4 lanes % 4][4 values]: half i is values 4 i .. of a piece
#pragma once

#include <cstdint>

#include "kernels/spmm_schedule.h"

namespace gossamer {

enum class PackedX { fragments, core_matrices, bytes, byte_core_matrices };
GOSSAMER_HOST_DEVICE constexpr bool is_of_bytes(PackedX layout) {
  return layout == PackedX::bytes || layout == PackedX::byte_core_matrices;
}

constexpr int packed_x_record_bytes(int n_tiles) { return n_tiles * 1024; }  // of 16-bit values
GOSSAMER_HOST_DEVICE constexpr int packed_x_record_bytes(PackedX layout, int n_tiles) {
  return n_tiles * (is_of_bytes(layout) ? 512 : 1024);
}
inline constexpr int kPackedXHalfStride = 128, kPackedXTokenStride = 256;  // bytes between core matrices

// Where the value of a token of the pass and a column of the record lies among the record's bytes. Contiguous: the eight values from a
// column that is a multiple of 8, on core matrices two from a multiple of 2, bytes on core matrices four from a multiple of 4.
GOSSAMER_HOST_DEVICE constexpr int packed_x_offset(PackedX layout, int n_tiles, int token, int column) {
  const int tile = token / 8, row = token % 8, piece = column / 32, quad = column / 8 % 4, i = column % 8;
  if (layout == PackedX::bytes) return (tile * 32 + 4 * row + quad) * 16 + 8 * piece + i;
  if (layout == PackedX::byte_core_matrices) {
    return (piece * n_tiles + tile) * kPackedXTokenStride + i / 4 * kPackedXHalfStride + row * 16 + 4 * quad + i % 4;
  }
  if (layout == PackedX::fragments) return (((tile * 2 + piece) * 32 + 4 * row + quad) * 8 + i) * 2;
  return (2 * piece + i / 4) * n_tiles * kPackedXTokenStride + tile * kPackedXTokenStride + i / 2 % 2 * kPackedXHalfStride +
         (row * 8 + 2 * quad + i % 2) * 2;
}

}  // namespace gossamer
