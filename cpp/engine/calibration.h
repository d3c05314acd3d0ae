// CalibrationObserver: sums the squared inputs of every linear, in double, one entry per input feature.
#pragma once

#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/results.h"
#include "model/model.h"

namespace gossamer {

class CalibrationObserver final : public LinearObserver {
 public:
  void observe(std::span<const std::string> weight_names, Ops& ops, const Tensor& input) override;
  // One entry per logical weight; those that share an input have equal sums.
  std::map<std::string, std::vector<double>> take();

 private:
  struct Sums {
    std::vector<std::string> weight_names;
    std::vector<double> values;
  };
  std::unordered_map<std::string, Sums> sums_;  // by the first weight's name
  std::vector<std::byte> host_;                 // the input, brought to the host
};

}  // namespace gossamer
