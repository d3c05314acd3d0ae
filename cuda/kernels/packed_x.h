// Packed activations: what a kernel reads of x for one record lies together, in the column order of the records (sparse/FORMAT.md), zero
// beyond n and k. Both layouts take n tiles * 1024 bytes a record and are ordered [passes][records].
//
// fragments (mma):    [n tiles][2 pieces][32 lanes][8 values]: piece i of a lane is 8 values of its token from column 32 i + 8 (lane % 4)
// on core matrices (wgmma): [4 fragments][n tiles][2 halves][8 tokens][8 values]
#pragma once

#include <cstdint>

namespace gossamer {

constexpr int packed_x_record_bytes(int n_tiles) { return n_tiles * 1024; }
inline constexpr int kPackedXHalfStride = 128, kPackedXTokenStride = 256;  // bytes between core matrices

}  // namespace gossamer
