// Tuning with a GPU made of formulas: the table has what was measured, goes through text and back, and decides accordingly.
#include "plan/tune.h"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "core/error.h"
#include "plan/cost_table_text.h"

namespace gossamer {
namespace {

// Reads 1 byte a nanosecond, from 5 us on; says so once per weight.
class FakeGpu final : public Measurer {
 public:
  void prepare(ProductPath path, std::int64_t k, double sparsity) override {
    EXPECT_TRUE(prepared_.insert({path, k, sparsity}).second) << "the same weight is made twice";
    path_ = path;
    k_ = k;
    sparsity_ = sparsity;
  }
  double product_us(std::int64_t m, std::int64_t n) override {
    if (n == 4096) return 2.0 * static_cast<double>(m * k_) * 4096 / 5e8;
    const double bytes = path_ == ProductPath::dense       ? 2
                         : path_ == ProductPath::bitmap    ? 2 * (1 - sparsity_) + 0.125
                         : path_ == ProductPath::tiled_csl ? 4 * (1 - sparsity_)
                                                           : 2 * (1 - sparsity_) + two_four_bytes_;
    return 5 + static_cast<double>(m * k_) * bytes / 1e3 + 0.01 * static_cast<double>(n);
  }
  double expansion_us(std::int64_t m) override {
    EXPECT_EQ(path_, ProductPath::bitmap);
    return static_cast<double>(m * k_) / 1e3;
  }
  void give_two_four(double bytes) { two_four_bytes_ = bytes; }
  std::size_t prepared() const { return prepared_.size(); }

 private:
  std::set<std::tuple<ProductPath, std::int64_t, double>> prepared_;
  ProductPath path_ = ProductPath::dense;
  std::int64_t k_ = 0;
  double sparsity_ = 0, two_four_bytes_ = 0.1875;
};

CostTable tuned() {
  FakeGpu gpu;
  return tune({}, gpu, {});
}

TEST(Tune, MeasuresEveryPointOnce) {
  FakeGpu gpu;
  std::size_t heard = 0;
  const TuneGrid grid;
  const CostTable table = tune(grid, gpu, [&](const std::string& what) { heard += what.empty() ? 0 : 1; });
  EXPECT_EQ(gpu.prepared(), grid.ks.size() * (1 + 5 + 4 + 4));  // dense, bitmap at each sparsity, Tiled-CSL and 2:4 at four
  EXPECT_EQ(heard, gpu.prepared());
  EXPECT_NEAR(table.dense_flops(), 5e8, 1);
  EXPECT_NEAR(table.us(ProductPath::bitmap, 4096, 4096, 16, 0.6), 5.16 + 4.096 * 4096 * 0.925, 1e-6);
  EXPECT_NEAR(table.us(ProductPath::tiled_csl, 1024, 16384, 8, 0.95), 5.08 + 1.024 * 16384 * 0.2, 1e-6);
  EXPECT_NEAR(table.us(ProductPath::two_four, 4096, 1024, 8, 0.8), 5.08 + 4.096 * 1024 * 0.5875, 1e-6);
  EXPECT_NEAR(table.us(ProductPath::expansion, 1024, 1024, 0, 0.4), 1048.576, 1e-6);
}

TEST(Tune, TheTableDecides) {
  const CostTable table = tuned();
  EXPECT_EQ(choose_path(table, 8192, 8192, 0.6), ProductPath::bitmap);
  EXPECT_EQ(choose_path(table, 8192, 8192, 0.95), ProductPath::tiled_csl);  // 0.2 bytes against 0.225
  EXPECT_EQ(choose_path(table, 8192, 8192, 0.0), ProductPath::dense);
  FakeGpu gpu;
  gpu.give_two_four(0.05);
  const CostTable with_faster = tune({}, gpu, {});
  EXPECT_EQ(choose_path(with_faster, 8192, 8192, 0.8), ProductPath::two_four);
  EXPECT_EQ(choose_path(parse_cost_table(to_text(with_faster, "GPU 1"), "GPU 1", "t"), 8192, 8192, 0.8), ProductPath::two_four);
  EXPECT_EQ(choose_path(with_faster, 8192, 8192, 0.4), ProductPath::bitmap) << "2:4 was not measured there";
}

TEST(CostTableText, GoesThroughTextAndBack) {
  const CostTable table = tuned(), back = parse_cost_table(to_text(table, "GPU 1"), "GPU 1", "t");
  EXPECT_EQ(back.ms(), table.ms());
  EXPECT_EQ(back.ks(), table.ks());
  ASSERT_EQ(back.curves().size(), table.curves().size());
  for (std::size_t i = 0; i < table.curves().size(); ++i) {
    const CostCurve &a = table.curves()[i], &b = back.curves()[i];
    EXPECT_EQ(std::tie(a.path, a.sparsity, a.n), std::tie(b.path, b.sparsity, b.n));
    for (std::size_t j = 0; j < a.us.size(); ++j) EXPECT_NEAR(b.us[j], a.us[j], 1e-5 * a.us[j]);
  }
  EXPECT_NEAR(back.dense_flops(), table.dense_flops(), 1e-5 * table.dense_flops());
}

TEST(CostTableText, SaysWhichLineIsWrong) {
  const std::string good = to_text(tuned(), "GPU 1");
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos);
    return text.replace(at, from.size(), to);
  };
  const auto expect_error = [](const std::string& text, const std::string& device, const std::string& part) {
    try {
      parse_cost_table(text, device, "table.txt");
      ADD_FAILURE() << "accepted; expected: " << part;
    } catch (const InvalidArgument& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("table.txt"), std::string::npos) << message;
      EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_NE(message.find("gossamer tune"), std::string::npos) << message;
    }
  };
  expect_error("", "GPU 1", "line 0");
  expect_error(replaced("table 1", "table 2"), "GPU 1", "line 1");
  expect_error(good, "GPU 2", "measured on 'GPU 1'");
  expect_error(replaced("rows", "raws"), "GPU 1", "line 3: 'rows'");
  expect_error(replaced("columns 1024", "columns x"), "GPU 1", "line 4: numbers");
  expect_error(replaced("dense_flops ", "dense_flops -"), "GPU 1", "dense_flops must be");
  expect_error(replaced("\nbitmap", "\nbytemap"), "GPU 1", "'bytemap' is no path");
  expect_error(replaced("\nbitmap 0.4", "\nbitmap 1.4"), "GPU 1", "sparsity");
  expect_error(good + "bitmap 0.5 8 1 2\n", "GPU 1", "a curve has 2 times");
  EXPECT_THROW(read_cost_table("/nonexistent/table.txt", "GPU 1"), InvalidArgument);
}

}  // namespace
}  // namespace gossamer
