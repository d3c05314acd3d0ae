#include "model/linear.h"

#include <utility>

namespace gossamer {

Linear::Linear(std::unique_ptr<PackedWeight> weight, OwnedTensor bias, Shard shard, std::vector<std::string> names)
    : weight_(std::move(weight)), bias_(std::move(bias)), shard_(shard), names_(std::move(names)) {}

void Linear::apply(ExecContext& ctx, const Tensor& out, const Tensor& x, Activation activation, const Tensor& residual) const {
  if (ctx.observer != nullptr) ctx.observer->observe(names_, ctx.ops, x);
  const bool partial = shard_ == Shard::cols && ctx.comm.size() > 1;
  check(!partial || activation == Activation::none, "Linear: an activation of a partial sum");
  Epilogue epilogue;
  epilogue.activation = activation;
  // One all-reduce is enough: rank 0 alone adds what all ranks share.
  if (!partial || ctx.comm.rank() == 0) {
    epilogue.bias = bias_.view;
    epilogue.residual = residual;
  }
  ctx.ops.linear(out, x, *weight_, epilogue);
  if (partial) ctx.comm.all_reduce_sum(ctx.ops, out);
}

}  // namespace gossamer
