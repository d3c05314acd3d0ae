#include <memory>

#include "comm/communicator.h"

namespace gossamer {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(Ops&, const Tensor&) override {}
  void all_gather_last(Ops& ops, const Tensor& out, const Tensor& part) override {
    if (out.raw() != part.raw()) ops.upload(out, part);
  }
  void broadcast(Ops&, const Tensor&, int root) override { require(root == 0, "broadcast: a group of one has only rank 0"); }
  void barrier() override {}
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() { return std::make_unique<SingleCommunicator>(); }

}  // namespace gossamer
