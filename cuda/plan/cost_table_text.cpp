#include "plan/cost_table_text.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <utility>

#include "core/error.h"

namespace gossamer {
namespace {

constexpr std::string_view kFirstLine = "gossamer cost table 1";
constexpr std::pair<std::string_view, ProductPath> kNames[] = {{"dense", ProductPath::dense},
                                                               {"expansion", ProductPath::expansion},
                                                               {"bitmap", ProductPath::bitmap},
                                                               {"tiled_csl", ProductPath::tiled_csl},
                                                               {"two_four", ProductPath::two_four}};

template <typename T>
std::string joined(const std::vector<T>& values) {
  std::ostringstream out;
  for (const T& v : values) out << ' ' << v;
  return out.str();
}

std::string quoted(std::string_view text) { return std::string("'").append(printable(text)).append("'"); }

class Lines {
 public:
  Lines(std::string_view text, std::string source) : text_(std::string(text)), source_(std::move(source)) {}

  // The next line; none at the end.
  std::optional<std::string> next() {
    std::string line;
    if (!std::getline(text_, line)) return std::nullopt;
    ++number_;
    return line;
  }
  [[noreturn]] void fail(const std::string& why) const {
    throw InvalidArgument("cost table '" + source_ + "', line " + std::to_string(number_) + ": " + why +
                          "; run 'gossamer tune' to make it anew");
  }
  void expect(bool condition, const std::string& why) const {
    if (!condition) fail(why);
  }
  // What follows `name ` in the next line.
  std::string field(std::string_view name) {
    const std::optional<std::string> line = next();
    expect(line && line->starts_with(std::string(name).append(" ")), quoted(name) + " and what follows it is missing");
    return line->substr(name.size() + 1);
  }
  template <typename T>
  std::vector<T> numbers(const std::string& text) const {
    std::istringstream in(text);
    const std::vector<T> values{std::istream_iterator<T>(in), {}};
    expect(in.eof() && !values.empty(), "numbers were expected, not " + quoted(text));
    return values;
  }

 private:
  std::istringstream text_;
  std::string source_;
  int number_ = 0;
};

CostCurve parse_curve(const Lines& lines, const std::string& line) {
  const std::size_t space = std::min(line.find(' '), line.size());
  const std::string name = line.substr(0, space);
  const auto* const found = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return n.first == name; });
  lines.expect(found != std::end(kNames), quoted(name) + " is no path");
  const std::vector<double> values = lines.numbers<double>(line.substr(space));
  lines.expect(values.size() > 2, "a curve is a path, sparsity, tokens and times");
  lines.expect(values[0] >= 0 && values[0] <= 1, "sparsity must be from 0 to 1");
  lines.expect(values[1] >= 0 && values[1] <= 1e9, "tokens must be from 0 to 1e9");
  return {found->second, values[0], static_cast<std::int64_t>(values[1]), {values.begin() + 2, values.end()}};
}

}  // namespace

std::string to_text(const CostTable& table, std::string_view device) {
  std::ostringstream out;
  out << kFirstLine << "\ndevice " << device << "\nrows" << joined(table.ms()) << "\ncolumns" << joined(table.ks()) << "\ndense_flops "
      << table.dense_flops() << '\n';
  for (const CostCurve& curve : table.curves()) {
    const auto* const found = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return n.second == curve.path; });
    out << found->first << ' ' << curve.sparsity << ' ' << curve.n << joined(curve.us) << '\n';
  }
  return out.str();
}

CostTable parse_cost_table(std::string_view text, std::string_view device, const std::string& source) {
  Lines lines(text, source);
  const std::optional<std::string> first = lines.next();
  lines.expect(first == kFirstLine, "the first line must be " + quoted(kFirstLine));
  const std::string measured_on = lines.field("device");
  lines.expect(measured_on == device, "it was measured on " + quoted(measured_on) + ", but this is " + quoted(device));
  std::vector<std::int64_t> ms = lines.numbers<std::int64_t>(lines.field("rows")), ks = lines.numbers<std::int64_t>(lines.field("columns"));
  const std::vector<double> flops = lines.numbers<double>(lines.field("dense_flops"));
  lines.expect(flops.size() == 1 && flops[0] > 0, "dense_flops must be one positive number");
  std::vector<CostCurve> curves;
  while (const std::optional<std::string> line = lines.next()) curves.push_back(parse_curve(lines, *line));
  try {
    return {std::move(ms), std::move(ks), flops[0], std::move(curves)};
  } catch (const InvalidArgument& error) {
    lines.fail(error.what());
  }
}

CostTable read_cost_table(const std::string& path, std::string_view device) {
  std::ifstream file(path);
  require(file.good(), "cost table '" + printable(path) + "' cannot be read; run 'gossamer tune' to make it");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_cost_table(text, device, printable(path));
}

}  // namespace gossamer
