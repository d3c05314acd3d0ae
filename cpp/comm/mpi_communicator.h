// MpiCommunicator: ranks on CPUs. A sum is taken in the order of the ranks, whatever the sizes, so that no result depends on the batch.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/mpi_library.h"
#include "comm/rank_group.h"

namespace gossamer {

// Both must outlive it.
std::unique_ptr<Communicator> make_mpi_communicator(MpiLibrary& mpi, RankGroup& group);

}  // namespace gossamer
