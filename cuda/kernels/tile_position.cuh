// Where a record's elements lie in the weight (cpp/sparse/FORMAT.md).
#pragma once

namespace gossamer::cuda {

// Where element e of a lane's half `half` (fragment half / 2) of a tile lies in the record.
struct TilePosition {
  int row, col;
};
__device__ __forceinline__ TilePosition tile_position(int tile, int half, int lane, int e) {
  const int f = half / 2;
  return {16 * tile + lane / 4 + 8 * (e / 2), 32 * (f / 2) + 8 * (lane % 4) + 4 * (f % 2) + 2 * (half % 2) + e % 2};
}

}  // namespace gossamer::cuda
