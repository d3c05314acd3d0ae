// Communicator: one rank's view of its tensor-parallel group. Collectives enqueue on the Ops' stream.
#pragma once

#include <memory>

#include "core/tensor.h"
#include "ops/ops.h"

namespace gossamer {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void all_reduce_sum(Ops& ops, const Tensor& x) = 0;                         // in place
  virtual void all_gather_last(Ops& ops, const Tensor& out, const Tensor& part) = 0;  // out [n, size * c] from each rank's [n, c]
  virtual void broadcast(Ops& ops, const Tensor& x, int root) = 0;
  virtual void barrier() = 0;
};

// A group of one: every collective is the identity.
std::unique_ptr<Communicator> make_single_communicator();

}  // namespace gossamer
