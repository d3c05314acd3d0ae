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
