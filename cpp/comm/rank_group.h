// RankGroup: what the ranks of one launch say to each other besides tensors. Rank 0 leads: it broadcasts and gathers, over one TCP
// connection to each of the others. A second connection carries heartbeats: a rank that dies or goes silent ends the group on every rank,
// at once or after the watchdog's time, with the cause; calls then throw EngineDeadError, and a process that does not end by itself is
// ended.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/launch.h"
#include "comm/socket.h"

namespace gossamer {

// The connections of a rank: rank 0 has one of each kind to every other rank (index 0 stays closed), the others one to rank 0 at index 0.
struct RankLinks {
  std::vector<Socket> control;
  std::vector<Socket> liveness;
};

struct RankGroupOptions {
  std::chrono::milliseconds watchdog{30'000};             // silence of a rank, or waiting for one in a collective, that ends the group
  std::chrono::milliseconds grace{2'500};                 // from the group's end to the process's
  void (*end_process)(const std::string& why) = nullptr;  // called after the grace; null = write `why` to stderr and exit with code 70
};

class RankGroup {
 public:
  // Watches what its scope does; null watches nothing.
  class StepWatch {
   public:
    explicit StepWatch(RankGroup* group) : group_(group) {
      if (group_ != nullptr) group_->step_begins();
    }
    ~StepWatch() {
      if (group_ != nullptr) group_->step_ends();
    }
    StepWatch(const StepWatch&) = delete;
    StepWatch& operator=(const StepWatch&) = delete;

   private:
    RankGroup* group_;
  };

  RankGroup(int rank, int size, RankLinks links, const RankGroupOptions& options);
  // Says goodbye if leave() was called; otherwise the others learn that this rank failed.
  ~RankGroup();
  RankGroup(const RankGroup&) = delete;
  RankGroup& operator=(const RankGroup&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool leads() const { return rank_ == 0; }
  std::chrono::milliseconds watchdog() const { return options_.watchdog; }

  // Collective: every rank calls them in the same order. Those that wait do so for as long as all ranks live.
  void broadcast(std::vector<std::byte>& message);                                 // rank 0's, to all others
  std::vector<std::vector<std::byte>> gather(std::span<const std::byte> message);  // on rank 0: everyone's, by rank; else empty
  std::int64_t minimum(std::int64_t value);
  void barrier() { minimum(0); }

  // Throws EngineDeadError, with the cause, once the group has failed. Cheap.
  void require_alive() const;
  // Ends the group on all ranks. The first cause stays.
  void fail(const std::string& why);
  // From begin to end at most the watchdog's time may pass, or the group fails. For a device that would hang without a word.
  void step_begins();
  void step_ends();
  // This rank is done in an orderly way: from now on others may go, too.
  void leave();

 private:
  struct Shared;
  const Socket& control(int other) const;
  void send(int to, std::span<const std::byte> message);
  void receive(int from, std::vector<std::byte>& message);
  [[noreturn]] void throw_broken(int other);

  const int rank_;
  const int size_;
  const RankGroupOptions options_;
  std::shared_ptr<Shared> shared_;  // with the monitor thread, which outlives a group that failed
};

// The ranks of this launch, through MPI: connects them, starts the heartbeats. Collective. DeviceError: no MPI library, or MPI counts other
// ranks than the launcher; a rank that cannot be reached.
RankLinks connect_ranks(const Launch& launch);

}  // namespace gossamer
