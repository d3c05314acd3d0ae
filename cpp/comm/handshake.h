// Before anything is shared, the ranks compare what must be equal: another build, another checkpoint, another option on one rank would give
// nonsense, or a hang, later.
#pragma once

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "comm/rank_group.h"

namespace gossamer {

using Fields = std::vector<std::pair<std::string, std::string>>;  // name → value, in the same order on every rank

// Collective. `failure`: why this rank has no fields; it is rethrown here. InvalidArgument, on every rank, names the rank and the field
// that differ from rank 0's; DeviceError the rank that failed, with its message.
void require_agreement(RankGroup& group, const Fields& fields, const std::exception_ptr& failure = {});

// Collective. `own`: what this rank alone may have, or empty. DeviceError, on every rank, names the first two that have the same.
void require_distinct(RankGroup& group, const std::string& what, const std::string& own);

}  // namespace gossamer
