// Measuring a cost table: which points, and what of them becomes which curve. What a point takes is a Measurer's business: a GPU's
// (cuda_tune.h), or a test's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plan/cost_table.h"

namespace gossamer {

class Measurer {
 public:
  virtual ~Measurer() = default;
  // What the following calls multiply by: random weights of k columns, dense or in the path's format. sparsity: 0 for dense.
  virtual void prepare(ProductPath path, std::int64_t k, double sparsity) = 0;
  // Microseconds of a product with m rows of them and n tokens, weights cold; and of expanding m rows.
  virtual double product_us(std::int64_t m, std::int64_t n) = 0;
  virtual double expansion_us(std::int64_t m) = 0;
};

struct TuneGrid {
  std::vector<std::int64_t> ms{1024, 4096, 12288, 32768}, ks{1024, 4096, 16384}, ns{8, 16, 32, 64, 128};
  std::vector<double> sparsities{0.4, 0.6, 0.7, 0.8, 0.95};
  double tiled_csl_from = 0.6, two_four_from = 0.6;  // sparsities below are not worth measuring
  std::int64_t flops_m = 12288, flops_n = 4096;      // of the dense product that shows the rate of large ones, with the longest k
};

// progress, if given, hears what is measured next.
CostTable tune(const TuneGrid& grid, Measurer& measurer, const std::function<void(const std::string& what)>& progress);

}  // namespace gossamer
