// Plain parameter struct of the kernels that make random weights.
#pragma once

#include <cstdint>

namespace gossamer::cuda {

struct RandomParams {
  void* dense = nullptr;          // [rows, ld], or null
  std::int32_t* units = nullptr;  // per record: its size in units of 16 bytes; written by the counting kernel
  std::uint8_t* data = nullptr;   // records
  const std::int32_t* offsets = nullptr;
  std::int64_t ld = 0;
  std::int64_t rows = 0, cols = 0;
  std::int64_t row_blocks = 0, records = 0;  // per row block
  std::uint64_t seed = 0, threshold = 0;
  float scale = 0.0F;
};

}  // namespace gossamer::cuda
