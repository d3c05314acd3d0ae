// How ranks that reach each other's memory exchange a message in one step. Host and device use the same code; tests run it on the host.
//
// Each rank writes its message into every other rank's staging memory and reads what has come from the words themselves: a word that is not
// empty has arrived, so neither flags nor fences stand between data and reader. Launches are numbered by epoch, each block for itself.
// In epoch e a block
//   1. writes its units to slot (e % kPhases, own rank) of every other rank,
//   2. empties the slots of phase (e - 1) % kPhases in its own memory, which it read in epoch e - 1,
//   3. waits for the units of all others in phase e % kPhases of its own memory.
// Nobody writes to a slot that has not been emptied: who writes for epoch e + 2 has received this rank's units of epoch e + 1, and these
// were sent after epoch e was over, and with it the emptying of phase (e - 1) % kPhases, if that is (e + 2) % kPhases: so kPhases = 3.
// With two phases the writer for epoch e + 1 would have to know that epoch e is over, but has seen only that it had begun.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/host_device.h"

namespace gossamer::cuda {

inline constexpr int kExchangePhases = 3;
// Marks a word as empty: two halves of -0. A sender turns it into 0.
inline constexpr std::uint32_t kExchangeEmpty = 0x80008000U;

// What is moved at once. Its words arrive one by one.
struct alignas(16) ExchangeUnit {
  std::uint32_t words[4];
};

// Of a block, between launches.
struct ExchangeState {
  std::uint32_t epoch = 0;
  std::uint32_t units = 0;  // each rank's in the epoch before
};

// Staging memory of a rank: units [block][phase][sender][block_capacity].
GOSSAMER_HOST_DEVICE constexpr std::int64_t exchange_slot(std::int64_t block, std::uint32_t phase, int sender, int ranks,
                                                          std::int64_t block_capacity, int phases = kExchangePhases) {
  return ((block * phases + phase) * ranks + sender) * block_capacity;
}

GOSSAMER_HOST_DEVICE constexpr ExchangeUnit sendable(ExchangeUnit unit) {
  for (std::uint32_t& word : unit.words) {
    if (word == kExchangeEmpty) word = 0;
  }
  return unit;
}

GOSSAMER_HOST_DEVICE constexpr bool has_arrived(const ExchangeUnit& unit) {
  return unit.words[0] != kExchangeEmpty && unit.words[1] != kExchangeEmpty && unit.words[2] != kExchangeEmpty &&
         unit.words[3] != kExchangeEmpty;
}

// One block's part of one launch. Memory: load(const ExchangeUnit*) and store(ExchangeUnit*, ExchangeUnit), relaxed, seen by all ranks.
template <int kRanks, class Memory, int kPhases = kExchangePhases>
class ExchangeBlock {
 public:
  // stages: by rank. block_capacity: units of a block at most.
  GOSSAMER_HOST_DEVICE ExchangeBlock(void* const* stages, int rank, std::int64_t block, std::int64_t block_capacity, ExchangeState state)
      : stages_(stages), rank_(rank), block_(block), capacity_(block_capacity), state_(state) {}

  // Unit to the step-th rank after this one; step from 1 to kRanks - 1.
  GOSSAMER_HOST_DEVICE void send(std::uint32_t unit, int step, const ExchangeUnit& value) const {
    Memory::store(slot((rank_ + step) % kRanks, state_.epoch % kPhases, rank_) + unit, value);
  }
  GOSSAMER_HOST_DEVICE void send(std::uint32_t unit, const ExchangeUnit& value) const {
    for (int step = 1; step < kRanks; ++step) send(unit, step, value);
  }

  // Units that are to be emptied.
  GOSSAMER_HOST_DEVICE std::uint32_t previous_units() const { return state_.units; }
  GOSSAMER_HOST_DEVICE void empty_previous(std::uint32_t unit) const {
    const ExchangeUnit empty{{kExchangeEmpty, kExchangeEmpty, kExchangeEmpty, kExchangeEmpty}};
    for (int sender = 0; sender < kRanks; ++sender) {
      if (sender != rank_) Memory::store(slot(rank_, (state_.epoch + kPhases - 1) % kPhases, sender) + unit, empty);
    }
  }

  // The ranks' values of a unit, by rank; false: not all are there yet.
  GOSSAMER_HOST_DEVICE bool receive(std::uint32_t unit, const ExchangeUnit& own, ExchangeUnit (&values)[kRanks]) const {
    bool all = true;
    for (int sender = 0; sender < kRanks; ++sender) {
      values[sender] = sender == rank_ ? own : Memory::load(slot(rank_, state_.epoch % kPhases, sender) + unit);
      all = all && has_arrived(values[sender]);
    }
    return all;
  }

  // What the block's next launch starts from.
  GOSSAMER_HOST_DEVICE ExchangeState next(std::uint32_t units) const { return {state_.epoch + 1, units}; }

 private:
  GOSSAMER_HOST_DEVICE ExchangeUnit* slot(int owner, std::uint32_t phase, int sender) const {
    return static_cast<ExchangeUnit*>(stages_[owner]) + exchange_slot(block_, phase, sender, kRanks, capacity_, kPhases);
  }

  void* const* stages_;
  int rank_;
  std::int64_t block_, capacity_;
  ExchangeState state_;
};

}  // namespace gossamer::cuda
