// This process's place among the ranks that a launcher started: joining them, what each rank may use of its host, and parting.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/handshake.h"
#include "comm/rank_group.h"
#include "runtime.h"

namespace gossamer {

class Ranks {
 public:
  // Null when this process was not started as one of several. Collective: connects all ranks.
  // InvalidArgument: tensor_parallel_size is not the number of ranks; a second Runtime. DeviceError: as connect_ranks.
  static std::unique_ptr<Ranks> join(const RuntimeOptions& options);
  ~Ranks();

  RankGroup& group() { return *group_; }
  bool leads() const { return launch_.rank == 0; }
  int rank() const { return launch_.rank; }
  int size() const { return launch_.size; }
  int local_size() const { return launch_.local_size; }

  // Threads of this rank when the options leave the choice: ranks that may use the same cores share them. Collective.
  int share_of_cores();
  // The device of this rank: the GPU of its number on the host, or the only one that it sees. InvalidArgument, DeviceError: there are
  // too few.
  std::string own_device(const std::string& device, const std::string& dtype);
  // DeviceError: two ranks were given one GPU. Collective.
  void require_own_gpu() { require_distinct(*group_, "GPU", gpu_); }
  // InvalidArgument: options.all_reduce is not for this device; options.batch_invariant cannot be kept.
  std::unique_ptr<Communicator> make_communicator(Ops& ops, const RuntimeOptions& options);
  // Waits for the others to come here, too; then each may end. Only for a group that lives.
  void part();
  // For a rank that failed and is not rank 0: rank 0 knows and tells the user; this process waits to be ended.
  [[noreturn]] void await_end();

 private:
  explicit Ranks(const Launch& launch, const RuntimeOptions& options);

  Launch launch_;
  std::unique_ptr<RankGroup> group_;
  std::string gpu_;  // its UUID; empty on a CPU
};

}  // namespace gossamer
