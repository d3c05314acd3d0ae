// NcclCommunicator: ranks on GPUs, one each, on one host or several. Collectives run on the Ops' stream and may be recorded in graphs.
// Nothing waits for NCCL without end: a thread looks for errors and for the group's end, and aborts the communicator, which ends the
// kernels that wait for a rank that is gone.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/rank_group.h"
#include "ops/ops.h"
#include "ops/plugin.h"

namespace gossamer::cuda {

// `ops` are CUDA's. Collective. Both must outlive it. one_shot: messages that PeerExchange takes go through it, where the ranks reach each
// other's memory; DeviceError where they do not.
std::unique_ptr<Communicator> make_nccl_communicator(Ops& ops, RankGroup& group, const CommunicatorOptions& options);

}  // namespace gossamer::cuda
