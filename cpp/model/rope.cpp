#include "model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <utility>

namespace gossamer {
namespace {

constexpr std::array<std::pair<std::string_view, RopeScaling>, 5> kRopeTypes{{{"default", RopeScaling::none},
                                                                              {"linear", RopeScaling::linear},
                                                                              {"llama3", RopeScaling::llama3},
                                                                              {"dynamic", RopeScaling::dynamic_ntk},
                                                                              {"yarn", RopeScaling::yarn}}};
constexpr Range kTheta{1.0, 1e12};
constexpr Range kFactor{1.0, 1e6};
constexpr Range kRotations{1e-3, 1e6};
constexpr std::int64_t kMaxOriginal = std::int64_t{1} << 31;

RopeScaling read_type(ConfigReader& reader) {
  if (reader.has("type") && reader.has("rope_type") && reader.found("type") != reader.found("rope_type")) {
    reader.problem("type", "the same as rope_type", reader.found("type"));
  }
  const std::string_view field = reader.has("rope_type") ? "rope_type" : "type";
  const std::string name = reader.text(field, "default");
  std::string supported;
  for (const auto& [known, type] : kRopeTypes) {
    if (known == name) return type;
    supported += (supported.empty() ? "" : ", ") + std::string(known);
  }
  reader.problem(field, "a supported rope type: " + supported, reader.found(field));
  return RopeScaling::none;
}

double yarn_mscale(double scale, double mscale) { return scale <= 1.0 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

void read_yarn(ConfigReader& reader, RopeConfig& rope) {
  rope.beta_fast = reader.number("beta_fast", kRotations, 32.0);
  rope.beta_slow = reader.number("beta_slow", kRotations, 1.0);
  if (rope.beta_fast < rope.beta_slow) reader.problem("beta_fast", "at least beta_slow", reader.found("beta_fast"));
  rope.truncate = reader.flag("truncate", true);
  const auto factor = reader.maybe_number("attention_factor", {1e-3, 1e3});
  const double mscale = reader.number("mscale", {0.0, 1e3}, 0.0);
  const double mscale_all_dim = reader.number("mscale_all_dim", {0.0, 1e3}, 0.0);
  if (factor) {
    rope.attention_factor = *factor;
  } else if (mscale != 0.0 && mscale_all_dim != 0.0) {
    rope.attention_factor = yarn_mscale(rope.factor, mscale) / yarn_mscale(rope.factor, mscale_all_dim);
  } else {
    rope.attention_factor = yarn_mscale(rope.factor, 1.0);
  }
}

// The fields of one scaling object; each type accepts its own and no others.
void read_scaling(ConfigReader& reader, RopeConfig& rope, std::int64_t max_positions) {
  rope.scaling = read_type(reader);
  reader.require_one({"partial_rotary_factor"});
  rope.theta = reader.number("rope_theta", kTheta, rope.theta);
  const auto original = [&] { return reader.integer("original_max_position_embeddings", 1, kMaxOriginal, max_positions); };
  switch (rope.scaling) {
    case RopeScaling::none: reader.require_known({"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"}); return;
    case RopeScaling::linear:
    case RopeScaling::dynamic_ntk:
      reader.require_known({"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"});
      rope.factor = reader.number("factor", kFactor);
      return;
    case RopeScaling::llama3:
      reader.require_known({"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "low_freq_factor", "high_freq_factor",
                            "original_max_position_embeddings"});
      rope.factor = reader.number("factor", kFactor);
      rope.low_freq_factor = reader.number("low_freq_factor", kRotations);
      rope.high_freq_factor = reader.number("high_freq_factor", kRotations);
      if (rope.high_freq_factor <= rope.low_freq_factor) {
        reader.problem("high_freq_factor", "more than low_freq_factor", reader.found("high_freq_factor"));
      }
      rope.original_max_positions = original();
      return;
    case RopeScaling::yarn:
      reader.require_known({"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "beta_fast", "beta_slow", "truncate",
                            "attention_factor", "mscale", "mscale_all_dim", "original_max_position_embeddings"});
      rope.factor = reader.number("factor", kFactor);
      rope.original_max_positions = original();
      read_yarn(reader, rope);
      return;
  }
}

void scale_llama3(const RopeConfig& rope, std::vector<float>& frequencies) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const auto low_wavelength = static_cast<float>(original / rope.low_freq_factor);
  const auto high_wavelength = static_cast<float>(original / rope.high_freq_factor);
  const auto factor = static_cast<float>(rope.factor);
  for (float& frequency : frequencies) {
    const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / frequency;
    if (wavelength > low_wavelength) {
      frequency = frequency / factor;
    } else if (wavelength >= high_wavelength) {
      const float smooth = (static_cast<float>(original) / wavelength - static_cast<float>(rope.low_freq_factor)) /
                           static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
      frequency = (1.0F - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

// The dimension that turns `rotations` times over the original context.
double correction_dim(const RopeConfig& rope, double rotations, double dim) {
  const double context = static_cast<double>(rope.original_max_positions);
  return dim * std::log(context / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(rope.theta));
}

void scale_yarn(const RopeConfig& rope, std::int64_t head_dim, std::vector<float>& frequencies) {
  const auto dim = static_cast<double>(head_dim);
  double low = correction_dim(rope, rope.beta_fast, dim);
  double high = correction_dim(rope, rope.beta_slow, dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float ramp = std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F, 1.0F);
    const float keep = 1.0F - ramp;
    const float interpolated = 1.0F / (static_cast<float>(rope.factor) * (1.0F / frequencies[i]));
    frequencies[i] = interpolated * (1.0F - keep) + frequencies[i] * keep;
  }
}

}  // namespace

RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions) {
  RopeConfig rope;
  reader.require_one({"partial_rotary_factor", "rotary_pct"});
  rope.theta = reader.number("rope_theta", kTheta, rope.theta);
  if (reader.has("rope_scaling") && reader.has("rope_parameters")) {
    reader.problem("rope_scaling", "either rope_scaling or rope_parameters", "both");
  }
  const std::string field = reader.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  auto scaling = reader.object(field);
  if (!scaling) return rope;
  if (reader.has("rope_theta") && scaling->has("rope_theta") && reader.found("rope_theta") != scaling->found("rope_theta")) {
    reader.problem("rope_theta", "the rope_theta of " + field, reader.found("rope_theta"));
  }
  const auto outer = reader.maybe_integer("original_max_position_embeddings", 1, kMaxOriginal);
  read_scaling(*scaling, rope, outer.value_or(max_positions));
  if (outer && rope.original_max_positions != 0 && *outer != rope.original_max_positions) {
    reader.problem("original_max_position_embeddings", "the value in " + field, reader.found("original_max_position_embeddings"));
  }
  return rope;
}

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, std::int64_t head_dim, std::int64_t max_positions) {
  const auto dim = static_cast<double>(head_dim);
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::dynamic_ntk && head_dim > 2) {
    // Up to max_positions, which no sequence exceeds here, this leaves theta as it is but for rounding.
    const auto length = static_cast<double>(max_positions);
    theta *= std::pow(rope.factor * length / length - (rope.factor - 1.0), dim / (dim - 2.0));
  }
  std::vector<float> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    frequencies[i] = 1.0F / static_cast<float>(std::pow(static_cast<double>(static_cast<float>(theta)), static_cast<double>(exponent)));
  }
  switch (rope.scaling) {
    case RopeScaling::none:
    case RopeScaling::dynamic_ntk: break;
    case RopeScaling::linear:
      for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
      break;
    case RopeScaling::llama3: scale_llama3(rope, frequencies); break;
    case RopeScaling::yarn: scale_yarn(rope, head_dim, frequencies); break;
  }
  return frequencies;
}

void fill_rope_tables(const Tensor& cos, const Tensor& sin, const std::vector<float>& inverse_frequencies, double attention_factor,
                      ThreadPool& pool) {
  const auto factor = static_cast<float>(attention_factor);
  pool.parallel_for(cos.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t position = begin; position < end; ++position) {
      float* cos_row = cos.row<float>(position);
      float* sin_row = sin.row<float>(position);
      for (std::size_t i = 0; i < inverse_frequencies.size(); ++i) {
        const auto angle = static_cast<double>(inverse_frequencies[i] * static_cast<float>(position));
        cos_row[i] = static_cast<float>(std::cos(angle)) * factor;
        sin_row[i] = static_cast<float>(std::sin(angle)) * factor;
      }
    }
  });
}

}  // namespace gossamer
