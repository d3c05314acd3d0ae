// Plain parameter struct of the kernels that pack bitmap tiles from a weight's canonical form (cpp/sparse/sparse_weight.h).
#pragma once

#include <cstdint>

namespace gossamer::cuda {

struct PackParams {
  const std::uint8_t* mask = nullptr;         // [rows, mask_stride]
  const std::uint16_t* values = nullptr;      // [nnz], of the type that the tiles hold
  const std::int64_t* row_offsets = nullptr;  // [rows + 1]
  std::int32_t* before = nullptr;             // [row_blocks, records, 32]: kept elements of a row ahead of a record
  const std::int32_t* offsets = nullptr;      // TiledWeight::offsets
  std::uint8_t* data = nullptr;               // TiledWeight::data
  std::int64_t rows = 0, mask_stride = 0;
  std::int64_t row_blocks = 0, records = 0;  // per row block
};

}  // namespace gossamer::cuda
