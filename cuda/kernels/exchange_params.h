// Plain parameter struct of the kernels that exchange small messages between GPUs of one host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/exchange_protocol.h"

namespace gossamer::cuda {

inline constexpr int kMaxPeers = 8;            // ranks of one exchange
inline constexpr int kExchangeThreads = 256;   // of a block
inline constexpr int kExchangeUnits = 4;       // that a thread takes at most
inline constexpr int kExchangeMaxBlocks = 64;  // of a launch: 1 MiB
inline constexpr std::int64_t kExchangeBlockCapacity = std::int64_t{kExchangeThreads} * kExchangeUnits;

// Bytes of a rank's staging memory.
constexpr std::size_t exchange_stage_bytes(int ranks) {
  return static_cast<std::size_t>(exchange_slot(kExchangeMaxBlocks, 0, 0, ranks, kExchangeBlockCapacity)) * sizeof(ExchangeUnit);
}

// Of a block: as few a thread as the most blocks allow. The same on all ranks, whose blocks of one number exchange with each other.
constexpr std::int64_t exchange_block_units(std::int64_t units) {
  constexpr std::int64_t kOneEach = std::int64_t{kExchangeMaxBlocks} * kExchangeThreads;
  return kExchangeThreads * ((units + kOneEach - 1) / kOneEach);
}
constexpr std::int64_t exchange_blocks(std::int64_t units) {
  return (units + exchange_block_units(units) - 1) / exchange_block_units(units);
}

struct ExchangeParams {
  const void* x = nullptr;             // own message
  void* out = nullptr;                 // may be x
  void* stages[kMaxPeers] = {};        // by rank, as this rank sees them
  ExchangeState* state = nullptr;      // [kExchangeMaxBlocks]
  const std::uint32_t* end = nullptr;  // host memory: not 0 when the group has failed, and nobody must wait any more
  std::int64_t units = 0;              // of one message
  std::int64_t block_units = 0;        // that a block takes, at most kExchangeBlockCapacity
  std::int64_t row_units = 0;          // all-gather: of a row of x; a row of out has ranks as many
  int rank = 0;
};

}  // namespace gossamer::cuda
