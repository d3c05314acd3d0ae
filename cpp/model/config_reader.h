// ConfigReader: typed, range-checked access to one JSON object of a configuration file. Problems are collected, not thrown, so that a
// user sees all of them at once.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/strict_json.h"

namespace gossamer {

struct Range {
  double min = 0.0;
  double max = 0.0;
};

class ConfigReader {
 public:
  // Throws CheckpointError if the text is not one strict JSON object.
  ConfigReader(std::string file, std::string_view text);

  bool has(std::string_view field) const;  // present and not null

  // A missing or null field gives the fallback; without one that is a problem, as is a wrong type or a value outside [min, max].
  std::int64_t integer(std::string_view field, std::int64_t min, std::int64_t max, std::optional<std::int64_t> fallback = {});
  double number(std::string_view field, Range range, std::optional<double> fallback = {});
  bool flag(std::string_view field, bool fallback);
  std::string text(std::string_view field, std::optional<std::string> fallback = {});
  std::vector<std::string> texts(std::string_view field);                                          // absent = empty
  std::vector<std::int64_t> integers(std::string_view field, std::int64_t min, std::int64_t max);  // one integer or a list
  std::optional<std::int64_t> maybe_integer(std::string_view field, std::int64_t min, std::int64_t max);
  std::optional<double> maybe_number(std::string_view field, Range range);
  std::optional<bool> maybe_flag(std::string_view field);

  // Features that are not implemented: the field must be absent or say "off" (null, false, 0, "", []) / be the factor 1.
  void require_off(std::initializer_list<std::string_view> fields);
  void require_one(std::initializer_list<std::string_view> fields);
  // Fields of this object other than `known` are problems.
  void require_known(std::initializer_list<std::string_view> known);

  // The object under `field`, sharing the list of problems; nullopt when absent or null.
  std::optional<ConfigReader> object(std::string_view field);

  void problem(std::string_view field, std::string expected, std::string found);
  std::string found(std::string_view field) const;  // the value as text for messages; "nothing" when absent
  // Throws CheckpointError if there were problems.
  void finish() const;

 private:
  struct State;
  ConfigReader(std::shared_ptr<State> state, const JsonValue& object, std::string prefix);
  const JsonValue* find(std::string_view field) const;  // null when absent or JSON null

  std::shared_ptr<State> state_;
  const JsonValue* object_;
  std::string prefix_;  // "rope_parameters."
};

}  // namespace gossamer
