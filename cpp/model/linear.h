// Linear: one weight product of a model, dense or sparse, whole or one rank's shard.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"

namespace gossamer {

// How tensor parallelism cuts a weight [m, k]: not at all; by rows, so that each rank makes its own outputs; by columns, so that each
// rank takes its own inputs and makes a partial sum of all outputs.
enum class Shard { whole, rows, cols };

class Linear {
 public:
  Linear() = default;
  // names: the logical weights stacked in `weight`. bias: [m] in the activation dtype, or empty.
  Linear(std::unique_ptr<PackedWeight> weight, OwnedTensor bias, Shard shard, std::vector<std::string> names);

  // out = activation(x · Wᵀ + bias) + residual, summed over the ranks where the weight is cut by columns (then without activation).
  // residual is undefined, or [n, m], the same on every rank; it may be `out`.
  void apply(ExecContext& ctx, const Tensor& out, const Tensor& x, Activation activation = Activation::none,
             const Tensor& residual = {}) const;

  bool is_loaded() const { return weight_ != nullptr; }
  const PackedWeight& weight() const { return *weight_; }

 private:
  std::unique_ptr<PackedWeight> weight_;
  OwnedTensor bias_;
  Shard shard_ = Shard::whole;
  std::vector<std::string> names_;
};

}  // namespace gossamer
