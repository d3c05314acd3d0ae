// What a product should cost on a GPU, from the planner's measured times: host code, usable where there is no GPU.
#include "bindings.h"
#include "core/error.h"
#include "plan/cost_table.h"

namespace gossamer::python {
namespace {

// Microseconds on an H100 of one product with a weight of this sparsity, packed and served as the CUDA backend does it.
double product_us(std::int64_t m, std::int64_t k, std::int64_t n, double sparsity) {
  require(n >= 1, "n must be at least 1");
  const CostTable& table = CostTable::h100();
  const double dense = table.us(ProductPath::dense, m, k, n, 0);
  const ProductPath path = sparsity > 0 ? choose_path(table, m, k, sparsity) : ProductPath::dense;
  if (path == ProductPath::dense) return dense;
  if (expands(table, path, m, k, n, sparsity)) return table.us(ProductPath::expansion, m, k, 0, sparsity) + dense;
  return table.us(path, m, k, n, sparsity);
}

}  // namespace

void bind_cost(nb::module_& module) {
  module.def(
      "product_us", &product_us, nb::arg("m"), nb::arg("k"), nb::arg("n"), nb::arg("sparsity"),
      "Predicted microseconds on an H100 of a product of n tokens with an fp16 weight [m, k], in the format chosen for its sparsity.");
}

}  // namespace gossamer::python
