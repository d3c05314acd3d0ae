// NcclLibrary for tests without a GPU: linked in place of the real one, it does what it is told and counts.
#pragma once

#include <atomic>
#include <cstddef>

namespace gossamer::cuda::testing {

// Of all ranks of the process together.
struct FakeNccl {
  std::atomic<int> looks_until_ready{0};  // a call is in progress for so many looks; negative = for ever
  std::atomic<bool> fails = false;        // in the background
  std::atomic<int> calls{0}, aborts{0};   // collectives; communicators freed
  std::atomic<int> uses_after_abort{0};   // of a communicator that was freed
  std::atomic<std::size_t> elements_summed{0};
};

FakeNccl& fake_nccl();
void reset_fake_nccl();

}  // namespace gossamer::cuda::testing
