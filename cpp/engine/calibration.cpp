#include "engine/calibration.h"

#include "core/error.h"

namespace gossamer {

namespace {

template <typename T>
void add_squares(const Tensor& input, std::vector<double>& sums) {
  for (std::int64_t t = 0; t < input.size(0); ++t) {
    const T* row = input.row<const T>(t);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const double value = to_float(row[i]);
      sums[i] += value * value;
    }
  }
}

}  // namespace

void CalibrationObserver::observe(std::span<const std::string> weight_names, Ops& ops, const Tensor& input) {
  check(!weight_names.empty() && input.rank() == 2, "LinearObserver::observe wants names and an input [n, k]");
  Sums& sums = sums_[weight_names.front()];
  if (sums.values.empty()) {
    sums.weight_names.assign(weight_names.begin(), weight_names.end());
    sums.values.resize(static_cast<std::size_t>(input.size(1)));
  }
  check(std::ssize(sums.values) == input.size(1), "a linear's input changed its width");
  Tensor on_host = input;
  if (input.device().kind != Device::Kind::cpu) {
    host_.resize(static_cast<std::size_t>(input.nbytes()));
    on_host = Tensor(host_.data(), input.dtype(), {input.size(0), input.size(1)});
    ops.download(on_host, input);
  }
  visit_floating(on_host.dtype(), [&](auto tag) { add_squares<typename decltype(tag)::type>(on_host, sums.values); });
}

std::map<std::string, std::vector<double>> CalibrationObserver::take() {
  std::map<std::string, std::vector<double>> result;
  for (auto& [first, sums] : sums_) {
    for (const std::string& name : sums.weight_names) result[name] = sums.values;
  }
  sums_.clear();
  return result;
}

}  // namespace gossamer
