// The plain parameter struct of the expansion kernel.
#pragma once

#include <cstdint>

namespace gossamer {

// out[m, ldw] = the weight, zero where it has none
struct ExpandParams {
  const std::uint8_t* data = nullptr;      // TiledWeight::data
  const std::uint32_t* offsets = nullptr;  // TiledWeight::offsets, units of 16 bytes
  void* out = nullptr;                     // of the weight's type, 16-byte aligned
  std::int64_t ldw = 0;                    // elements, at least k, a multiple of 8; columns from k on become zero
  std::int32_t m = 0;
  std::int32_t row_blocks = 0, records = 0;  // records: per row block
  std::uint32_t slot_bytes = 0;              // max record + 16
};

}  // namespace gossamer
