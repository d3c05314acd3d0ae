// Follower: a rank other than 0. It runs what rank 0 says, step by step, until rank 0 stops.
#pragma once

#include "engine/engine_core.h"
#include "engine/step_channel.h"

namespace gossamer {

class Follower {
 public:
  // config.group must be there. What it is given is used until serve() returns.
  Follower(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config);
  // Returns when rank 0 stops in an orderly way; throws EngineDeadError when the group has failed, or this rank's own error, which has
  // then ended the group.
  void serve();

 private:
  RankGroup& group_;
  Executor executor_;
  StepChannel leader_;
};

}  // namespace gossamer
