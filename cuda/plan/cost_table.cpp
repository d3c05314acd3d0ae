#include "plan/cost_table.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/error.h"

namespace gossamer {
namespace {

constexpr double kSlowestAccepted = 1 / 0.97;  // of dense

// The interval of `axis` around `value` and the place in it, in logarithms; beyond the last point the last interval is extended.
struct Place {
  std::size_t low;
  double fraction;
};
Place place(const std::vector<std::int64_t>& axis, std::int64_t value) {
  const double at = std::log(static_cast<double>(std::max(value, axis.front())));
  std::size_t low = 0;
  while (low + 2 < axis.size() && value > axis[low + 1]) ++low;
  const double first = std::log(static_cast<double>(axis[low])), last = std::log(static_cast<double>(axis[low + 1]));
  return {low, (at - first) / (last - first)};
}

double blend(double a, double b, double fraction) { return a + (b - a) * fraction; }

constexpr std::pair<TileFormat, ProductPath> kPaths[] = {{TileFormat::bitmap, ProductPath::bitmap},
                                                         {TileFormat::tiled_csl, ProductPath::tiled_csl},
                                                         {TileFormat::two_four, ProductPath::two_four}};

}  // namespace

ProductPath path_of(TileFormat format) {
  return std::find_if(std::begin(kPaths), std::end(kPaths), [&](const auto& p) { return p.first == format; })->second;
}
TileFormat format_of(ProductPath path) {
  const auto* const found = std::find_if(std::begin(kPaths), std::end(kPaths), [&](const auto& p) { return p.second == path; });
  require(found != std::end(kPaths), "this path has no tile format");
  return found->first;
}

CostTable::CostTable(std::vector<std::int64_t> ms, std::vector<std::int64_t> ks, double dense_flops, std::vector<CostCurve> curves)
    : ms_(std::move(ms)), ks_(std::move(ks)), dense_flops_(dense_flops), curves_(std::move(curves)) {
  require(ms_.size() >= 2 && ks_.size() >= 2 && std::is_sorted(ms_.begin(), ms_.end()) && std::is_sorted(ks_.begin(), ks_.end()),
          "cost table: the axes must be ascending, with at least two points each");
  for (const CostCurve& c : curves_) {
    require(c.us.size() == ms_.size() * ks_.size(), "cost table: a curve has " + std::to_string(c.us.size()) + " times, the grid " +
                                                        std::to_string(ms_.size() * ks_.size()) + " points");
    require(std::all_of(c.us.begin(), c.us.end(), [](double us) { return us > 0; }), "cost table: a time is not positive");
  }
  require(has(ProductPath::dense) && has(ProductPath::bitmap) && has(ProductPath::expansion), "cost table: a path has no curves");
}

bool CostTable::has(ProductPath path) const {
  return std::any_of(curves_.begin(), curves_.end(), [&](const CostCurve& c) { return c.path == path; });
}

double CostTable::least_sparsity(ProductPath path) const {
  double least = 1;
  for (const CostCurve& c : curves_) {
    if (c.path == path) least = std::min(least, c.sparsity);
  }
  return least;
}

double CostTable::on_grid(const CostCurve& curve, std::int64_t m, std::int64_t k) const {
  const Place row = place(ms_, m), column = place(ks_, k);
  const auto at = [&](std::size_t i, std::size_t j) { return std::log(curve.us[i * ks_.size() + j]); };
  const double low = blend(at(row.low, column.low), at(row.low, column.low + 1), column.fraction);
  const double high = blend(at(row.low + 1, column.low), at(row.low + 1, column.low + 1), column.fraction);
  return std::exp(blend(low, high, row.fraction));
}

// At a number of tokens that was measured.
double CostTable::at_tokens(ProductPath path, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity) const {
  const CostCurve *below = nullptr, *above = nullptr;  // in sparsity
  for (const CostCurve& c : curves_) {
    if (c.path != path || c.n != n) continue;
    if (c.sparsity <= sparsity && (below == nullptr || c.sparsity > below->sparsity)) below = &c;
    if (c.sparsity >= sparsity && (above == nullptr || c.sparsity < above->sparsity)) above = &c;
  }
  if (below == nullptr || above == nullptr) {  // beyond what was measured: by the two nearest, if there are two
    std::vector<const CostCurve*> ends;
    for (const CostCurve& c : curves_) {
      if (c.path == path && c.n == n) ends.push_back(&c);
    }
    std::sort(ends.begin(), ends.end(),
              [&](const auto* a, const auto* b) { return std::abs(a->sparsity - sparsity) < std::abs(b->sparsity - sparsity); });
    below = ends[0];
    above = sparsity < below->sparsity && ends.size() > 1 ? ends[1] : ends[0];  // denser takes longer; sparser is taken as the sparsest
  }
  const double first = on_grid(*below, m, k);
  if (above->sparsity == below->sparsity) return first;
  return blend(first, on_grid(*above, m, k), (sparsity - below->sparsity) / (above->sparsity - below->sparsity));
}

double CostTable::us(ProductPath path, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity) const {
  require(m >= 1 && k >= 1 && sparsity >= 0 && sparsity <= 1, "cost table: m and k must be at least 1, sparsity from 0 to 1");
  require(has(path), "cost table: the path was not measured");
  if (path == ProductPath::expansion) return at_tokens(path, m, k, 0, sparsity);
  if (path == ProductPath::dense) sparsity = 0;
  std::int64_t measured = 0, most = 0;  // the least that is enough, and the largest
  for (const CostCurve& c : curves_) {
    if (c.path != path) continue;
    most = std::max(most, c.n);
    if (c.n >= n && (measured == 0 || c.n < measured)) measured = c.n;
  }
  if (measured != 0) return at_tokens(path, m, k, measured, sparsity);
  const double last = at_tokens(path, m, k, most, sparsity);
  if (path == ProductPath::dense)
    return std::max(last, 2 * static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(n) / dense_flops_);
  return last * std::ceil(static_cast<double>(n) / static_cast<double>(most));  // further passes over the weight
}

ProductPath choose_path(const CostTable& table, std::int64_t m, std::int64_t k, double sparsity) {
  ProductPath best = ProductPath::dense;
  double least = 2;  // dense, relative to itself, twice
  for (const ProductPath path : {ProductPath::bitmap, ProductPath::tiled_csl, ProductPath::two_four}) {
    if (!table.has(path)) continue;
    if (path == ProductPath::two_four && sparsity < table.least_sparsity(path)) continue;
    double sum = 0, slowest = 0;
    for (const std::int64_t n : {8, 16}) {
      const double relative = table.us(path, m, k, n, sparsity) / table.us(ProductPath::dense, m, k, n, 0);
      sum += relative;
      slowest = std::max(slowest, relative);
    }
    if (slowest <= kSlowestAccepted && sum < least) {
      best = path;
      least = sum;
    }
  }
  return best;
}

bool expands(const CostTable& table, ProductPath packed, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity) {
  const double expanded = table.us(ProductPath::expansion, m, k, 0, sparsity) + table.us(ProductPath::dense, m, k, n, 0);
  return expanded < table.us(packed, m, k, n, sparsity);
}

}  // namespace gossamer
