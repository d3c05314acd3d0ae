#include "engine/follower.h"

#include "core/error.h"

namespace gossamer {

Follower::Follower(Ops& ops, Communicator& comm, const Model& model, const EngineConfig& config)
    : group_(*config.group), executor_(ops, comm, model, executor_config(config)), leader_(group_, config.max_num_batched_tokens) {}

void Follower::serve() {
  try {
    for (;;) {
      switch (leader_.receive()) {
        case StepCommand::forward: executor_.forward(leader_.parts()); break;
        case StepCommand::logits: executor_.logits(leader_.rows()); break;
        case StepCommand::stop: return;
      }
    }
  } catch (const std::exception& error) {
    group_.fail("rank " + std::to_string(group_.rank()) + " failed: " + error.what());
    throw;
  }
}

}  // namespace gossamer
