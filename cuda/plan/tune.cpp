#include "plan/tune.h"

#include <map>
#include <tuple>
#include <utility>

namespace gossamer {
namespace {

// Fills in curves point by point: measuring goes k by k, since a weight serves all m and n.
class Curves {
 public:
  explicit Curves(const TuneGrid& grid) : grid_(grid) {}

  void set(ProductPath path, double sparsity, std::int64_t n, std::size_t m, std::size_t k, double us) {
    std::vector<double>& times = curves_[{path, sparsity, n}];
    times.resize(grid_.ms.size() * grid_.ks.size());
    times[m * grid_.ks.size() + k] = us;
  }
  std::vector<CostCurve> all() const {
    std::vector<CostCurve> curves;
    for (const auto& [key, times] : curves_) curves.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), times});
    return curves;
  }

 private:
  const TuneGrid& grid_;
  std::map<std::tuple<ProductPath, double, std::int64_t>, std::vector<double>> curves_;
};

std::string named(ProductPath path, std::int64_t k, double sparsity) {
  const std::string what = path == ProductPath::dense ? "dense" : std::string(name_of(format_of(path)));
  return what + ", k = " + std::to_string(k) +
         (path == ProductPath::dense ? "" : ", " + std::to_string(static_cast<int>(100 * sparsity + 0.5)) + " %");
}

}  // namespace

CostTable tune(const TuneGrid& grid, Measurer& measurer, const std::function<void(const std::string& what)>& progress) {
  Curves curves(grid);
  const auto measure = [&](ProductPath path, std::size_t k, double sparsity) {
    if (progress) progress(named(path, grid.ks[k], sparsity));
    measurer.prepare(path, grid.ks[k], sparsity);
    for (std::size_t m = 0; m < grid.ms.size(); ++m) {
      for (const std::int64_t n : grid.ns) curves.set(path, sparsity, n, m, k, measurer.product_us(grid.ms[m], n));
      if (path == ProductPath::bitmap) curves.set(ProductPath::expansion, sparsity, 0, m, k, measurer.expansion_us(grid.ms[m]));
    }
  };
  double dense_flops = 0;
  for (std::size_t k = 0; k < grid.ks.size(); ++k) {
    measure(ProductPath::dense, k, 0);
    if (k + 1 == grid.ks.size()) {
      const double products = 2.0 * static_cast<double>(grid.flops_m) * static_cast<double>(grid.ks[k]) * static_cast<double>(grid.flops_n);
      dense_flops = products / measurer.product_us(grid.flops_m, grid.flops_n);
    }
    for (const double sparsity : grid.sparsities) {
      measure(ProductPath::bitmap, k, sparsity);
      if (sparsity >= grid.tiled_csl_from) measure(ProductPath::tiled_csl, k, sparsity);
      if (sparsity >= grid.two_four_from) measure(ProductPath::two_four, k, sparsity);
    }
  }
  return {grid.ms, grid.ks, dense_flops, curves.all()};
}

}  // namespace gossamer
