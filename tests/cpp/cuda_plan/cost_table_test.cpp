#include "plan/cost_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace gossamer {
namespace {

// Times that follow a law: c * m * k, where the sparse paths read (1 - s) of the dense bytes and start 10 us late.
CostTable law(double dense_flops = 1e6) {
  const std::vector<std::int64_t> ms = {1024, 8192}, ks = {1024, 4096};
  const auto curve = [&](ProductPath path, double sparsity, std::int64_t n, double late, double scale) {
    CostCurve c{path, sparsity, n, {}};
    for (const std::int64_t m : ms)
      for (const std::int64_t k : ks) c.us.push_back(late + scale * static_cast<double>(m * k) / 1e6);
    return c;
  };
  std::vector<CostCurve> curves;
  for (const std::int64_t n : {8, 16, 64}) {
    curves.push_back(curve(ProductPath::dense, 0, n, 0, 1));
    for (const double s : {0.5, 0.9}) {
      curves.push_back(curve(ProductPath::bitmap, s, n, 10, 1 - s));
      curves.push_back(curve(ProductPath::tiled_csl, s, n, 10, 2 * (1 - s)));
    }
  }
  curves.push_back(curve(ProductPath::expansion, 0.5, 0, 0, 1.5));
  return {ms, ks, dense_flops, curves};
}

TEST(CostTable, InterpolatesBetweenAndBeyondThePointsOfTheGrid) {
  const CostTable table = law();
  EXPECT_NEAR(table.us(ProductPath::dense, 8192, 4096, 8, 0), 33.55, 0.01);  // a point
  EXPECT_NEAR(table.us(ProductPath::dense, 2048, 2048, 8, 0), 4.19, 0.01);   // a power law is straight in logarithms
  EXPECT_NEAR(table.us(ProductPath::dense, 16384, 8192, 8, 0), 134.2, 0.1);  // and goes on
  EXPECT_NEAR(table.us(ProductPath::dense, 7, 3, 8, 0), 1.05, 0.01);         // never below the smallest
  EXPECT_NEAR(table.us(ProductPath::bitmap, 8192, 4096, 8, 0.7), 20.07, 0.01);
  EXPECT_NEAR(table.us(ProductPath::bitmap, 8192, 4096, 8, 0.3), 33.49, 0.01);
  EXPECT_EQ(table.us(ProductPath::bitmap, 8192, 4096, 8, 0.99), table.us(ProductPath::bitmap, 8192, 4096, 8, 0.9));
  EXPECT_EQ(table.us(ProductPath::bitmap, 8192, 4096, 17, 0.5), table.us(ProductPath::bitmap, 8192, 4096, 64, 0.5));
  EXPECT_NEAR(table.us(ProductPath::dense, 8192, 4096, 65, 0), 4362, 1);  // 2 m k n / 1e6
  EXPECT_EQ(table.us(ProductPath::bitmap, 8192, 4096, 65, 0.5), 2 * table.us(ProductPath::bitmap, 8192, 4096, 64, 0.5));
}

TEST(CostTable, ChoosesTheFastestAndNeverMuchSlowerThanDense) {
  const CostTable table = law(1e9);
  EXPECT_EQ(choose_path(table, 8192, 4096, 0.9), ProductPath::bitmap);
  EXPECT_EQ(choose_path(table, 1024, 1024, 0.9), ProductPath::dense);  // 10 us late
  EXPECT_EQ(choose_path(table, 8192, 4096, 0.0), ProductPath::dense);
  EXPECT_FALSE(expands(table, ProductPath::bitmap, 8192, 4096, 64, 0.5));
  EXPECT_TRUE(expands(table, ProductPath::bitmap, 8192, 4096, 64 * 6, 0.5));
}

TEST(CostTable, RefusesTablesThatDoNotFit) {
  EXPECT_THROW(CostTable({1024, 4096}, {1024, 4096}, 1e9, {{ProductPath::dense, 0, 8, {1, 2, 3}}}), InvalidArgument);
  EXPECT_THROW(CostTable({1024, 4096}, {1024, 4096}, 1e9, {{ProductPath::dense, 0, 8, {1, 2, 3, 0}}}), InvalidArgument);
  EXPECT_THROW(CostTable({1024, 4096}, {1024, 4096}, 1e9, {{ProductPath::dense, 0, 8, {1, 2, 3, 4}}}), InvalidArgument);  // no sparse path
  EXPECT_THROW(CostTable({4096}, {1024, 4096}, 1e9, {}), InvalidArgument);
}

// By its own times, over shapes and sparsities between and beyond the grid's points, for batches a weight is packed for.
TEST(CostTable, TheChoiceIsNeverMuchSlowerThanDense) {
  const CostTable& table = CostTable::h100();
  for (std::int64_t m = 700; m < 80000; m = m * 7 / 5) {
    for (std::int64_t k = 700; k < 60000; k = k * 7 / 5) {
      for (double sparsity = 0; sparsity <= 1; sparsity += 0.05) {
        const ProductPath path = choose_path(table, m, k, sparsity);
        for (const std::int64_t n : {1, 8, 16}) {
          EXPECT_LE(0.97 * table.us(path, m, k, n, sparsity), table.us(ProductPath::dense, m, k, n, 0))
              << m << " x " << k << ", " << sparsity;
        }
      }
    }
  }
}

// And by what was measured on the ten shapes of spmm_h100.json, which are not on the grid.
TEST(CostTable, TheChoiceIsNeverMuchSlowerThanDenseWhereItWasMeasured) {
  std::ifstream file(GOSSAMER_RESULTS "/spmm_h100.json");
  const auto rows = nlohmann::json::parse(file).at("rows");
  int found = 0;
  for (const auto& row : rows) {
    const std::int64_t m = row.at("m"), k = row.at("k"), n = row.at("n");
    if (n > 16 || row.at("dtype") != "f16") continue;
    const ProductPath path = choose_path(CostTable::h100(), m, k, row.at("sparsity"));
    if (path == ProductPath::dense || row.at("kernel") != name_of(format_of(path))) continue;
    EXPECT_GE(row.at("speedup").get<double>(), 0.97) << row.dump();
    ++found;
  }
  EXPECT_GE(found, 100);
}

TEST(CostTable, AnUnmeasuredPathIsNeitherChosenNorTimed) {
  const CostTable table = law();
  ASSERT_FALSE(table.has(ProductPath::two_four));
  EXPECT_THROW(table.us(ProductPath::two_four, 4096, 4096, 8, 0.8), InvalidArgument);
  for (const double sparsity : {0.5, 0.8, 0.9, 0.99}) EXPECT_NE(choose_path(table, 27648, 9216, sparsity), ProductPath::two_four);
  for (const TileFormat format : {TileFormat::bitmap, TileFormat::tiled_csl, TileFormat::two_four}) {
    EXPECT_EQ(format_of(path_of(format)), format);
  }
  EXPECT_THROW(format_of(ProductPath::dense), InvalidArgument);
}

TEST(CostTable, KnowsAnH100) {
  const CostTable& table = CostTable::h100();
  EXPECT_NE(choose_path(table, 27648, 9216, 0.6), ProductPath::dense);
  EXPECT_NE(choose_path(table, 4096, 4096, 0.5), ProductPath::dense);
  EXPECT_EQ(choose_path(table, 27648, 9216, 0.0), ProductPath::dense);
  EXPECT_EQ(choose_path(table, 27648, 9216, 0.7), ProductPath::bitmap);
  EXPECT_EQ(choose_path(table, 27648, 9216, 0.8), ProductPath::two_four);
  EXPECT_EQ(choose_path(table, 27648, 9216, 0.95), ProductPath::two_four);
  EXPECT_TRUE(expands(table, ProductPath::bitmap, 27648, 9216, 2048, 0.6));
  EXPECT_FALSE(expands(table, ProductPath::bitmap, 27648, 9216, 16, 0.6));
}

}  // namespace
}  // namespace gossamer
