// Which way to run a weight's products, from measured times. Host-only, no CUDA header: tested without a GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse/tiled_weight.h"

namespace gossamer {

// dense: cuBLASLt on fp16. expansion: of a sparse weight into a dense one, without the product that follows.
enum class ProductPath { dense, bitmap, tiled_csl, expansion, two_four };

ProductPath path_of(TileFormat format);
TileFormat format_of(ProductPath path);  // of a sparse path

// Microseconds of one product with cold weights over a grid of shapes.
struct CostCurve {
  ProductPath path;
  double sparsity;         // 0 for dense
  std::int64_t n;          // tokens; 0 for expansion
  std::vector<double> us;  // [m of the table][k of the table]
};

// Times between the points of the grid are interpolated: linear in the logarithms of m, k and time, and in sparsity. A kernel's time grows
// in steps of its tiles, so between two numbers of tokens the larger counts.
class CostTable {
 public:
  // ms, ks: ascending, at least two each. Throws InvalidArgument for curves that are not of the grid's size, or where dense, bitmap or
  // expansion has none.
  // dense_flops: per microsecond, of dense products too large to be bound by memory.
  CostTable(std::vector<std::int64_t> ms, std::vector<std::int64_t> ks, double dense_flops, std::vector<CostCurve> curves);
  // Measured on an H100 (benchmarks/results/cost_h100.json).
  static const CostTable& h100();

  const std::vector<std::int64_t>& ms() const { return ms_; }
  const std::vector<std::int64_t>& ks() const { return ks_; }
  double dense_flops() const { return dense_flops_; }
  const std::vector<CostCurve>& curves() const { return curves_; }
  // Whether the path was measured: one that was not is never chosen.
  bool has(ProductPath path) const;
  // The least sparsity it was measured at.
  double least_sparsity(ProductPath path) const;
  // Microseconds of a path that was measured; n is ignored for an expansion.
  double us(ProductPath path, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity) const;

 private:
  double on_grid(const CostCurve& curve, std::int64_t m, std::int64_t k) const;
  double at_tokens(ProductPath path, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity) const;

  std::vector<std::int64_t> ms_, ks_;
  double dense_flops_;
  std::vector<CostCurve> curves_;
};

// What a weight is packed as: the path with the least time over batches of 8 and 16 tokens, each relative to dense, but dense where the
// other would be slower than 0.97 x dense at either; 2:4 only at sparsities that were measured or larger, since what does not fit it grows
// faster than an extrapolation. Larger batches are served by whatever was chosen, or by expansion.
ProductPath choose_path(const CostTable& table, std::int64_t m, std::int64_t k, double sparsity);

// Whether a packed weight is better expanded and multiplied densely for n tokens.
bool expands(const CostTable& table, ProductPath packed, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity);

}  // namespace gossamer
