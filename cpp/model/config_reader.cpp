#include "model/config_reader.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <utility>

#include "core/error.h"

namespace gossamer {
namespace {

struct Problem {
  std::string field, expected, found;
};

std::string text_of(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

std::string text_of(const JsonValue& value) { return printable(value.dump()); }

bool is_null(const JsonValue& value) { return value.as<std::nullptr_t>() != nullptr; }

std::optional<double> number_of(const JsonValue& value) {
  if (const auto* integer = value.as<std::int64_t>()) return static_cast<double>(*integer);
  if (const auto* number = value.as<double>()) return *number;
  return std::nullopt;
}

bool fits(const JsonValue& value, std::int64_t min, std::int64_t max) {
  const auto* integer = value.as<std::int64_t>();
  return integer != nullptr && *integer >= min && *integer <= max;
}

bool is_off(const JsonValue& value) {
  if (const auto number = number_of(value)) return *number == 0.0;
  if (const auto* flag = value.as<bool>()) return !*flag;
  if (const auto* text = value.as<std::string>()) return text->empty();
  if (const auto* array = value.as<JsonValue::Array>()) return array->empty();
  if (const auto* object = value.as<JsonValue::Object>()) return object->empty();
  return true;
}

std::string integer_range(std::int64_t min, std::int64_t max) {
  return "an integer from " + std::to_string(min) + " to " + std::to_string(max);
}

std::string number_range(Range range) { return "a number from " + text_of(range.min) + " to " + text_of(range.max); }

}  // namespace

struct ConfigReader::State {
  std::string file;
  JsonValue root;
  std::vector<Problem> problems;
};

ConfigReader::ConfigReader(std::string file, std::string_view text) : state_(std::make_shared<State>()) {
  state_->root = parse_strict_json(text, file);
  state_->file = std::move(file);
  object_ = &state_->root;
}

ConfigReader::ConfigReader(std::shared_ptr<State> state, const JsonValue& object, std::string prefix)
    : state_(std::move(state)), object_(&object), prefix_(std::move(prefix)) {}

const JsonValue* ConfigReader::find(std::string_view field) const {
  for (const auto& [name, value] : *object_->as<JsonValue::Object>()) {
    if (name == field) return is_null(value) ? nullptr : &value;
  }
  return nullptr;
}

bool ConfigReader::has(std::string_view field) const { return find(field) != nullptr; }

std::string ConfigReader::found(std::string_view field) const {
  const JsonValue* value = find(field);
  return value == nullptr ? "nothing" : text_of(*value);
}

void ConfigReader::problem(std::string_view field, std::string expected, std::string found) {
  state_->problems.push_back({prefix_ + std::string(field), std::move(expected), std::move(found)});
}

std::optional<std::int64_t> ConfigReader::maybe_integer(std::string_view field, std::int64_t min, std::int64_t max) {
  const JsonValue* value = find(field);
  if (value == nullptr) return std::nullopt;
  if (fits(*value, min, max)) return *value->as<std::int64_t>();
  problem(field, integer_range(min, max), text_of(*value));
  return std::nullopt;
}

std::optional<double> ConfigReader::maybe_number(std::string_view field, Range range) {
  const JsonValue* value = find(field);
  if (value == nullptr) return std::nullopt;
  const auto number = number_of(*value);
  if (number && *number >= range.min && *number <= range.max) return number;
  problem(field, number_range(range), text_of(*value));
  return std::nullopt;
}

std::optional<bool> ConfigReader::maybe_flag(std::string_view field) {
  const JsonValue* value = find(field);
  if (value == nullptr) return std::nullopt;
  if (const auto* flag = value->as<bool>()) return *flag;
  problem(field, "true or false", text_of(*value));
  return std::nullopt;
}

std::int64_t ConfigReader::integer(std::string_view field, std::int64_t min, std::int64_t max, std::optional<std::int64_t> fallback) {
  if (!has(field) && !fallback) problem(field, integer_range(min, max), "nothing");
  return maybe_integer(field, min, max).value_or(fallback.value_or(min));
}

double ConfigReader::number(std::string_view field, Range range, std::optional<double> fallback) {
  if (!has(field) && !fallback) problem(field, number_range(range), "nothing");
  return maybe_number(field, range).value_or(fallback.value_or(range.min));
}

bool ConfigReader::flag(std::string_view field, bool fallback) { return maybe_flag(field).value_or(fallback); }

std::string ConfigReader::text(std::string_view field, std::optional<std::string> fallback) {
  const JsonValue* value = find(field);
  const auto* text = value == nullptr ? nullptr : value->as<std::string>();
  if (text != nullptr) return *text;
  if (value != nullptr || !fallback) problem(field, "a string", found(field));
  return fallback.value_or("");
}

std::vector<std::string> ConfigReader::texts(std::string_view field) {
  const JsonValue* value = find(field);
  if (value == nullptr) return {};
  std::vector<std::string> result;
  const auto* items = value->as<JsonValue::Array>();
  bool right = items != nullptr;
  for (std::size_t i = 0; right && i < items->size(); ++i) {
    const auto* text = (*items)[i].as<std::string>();
    right = text != nullptr;
    if (right) result.push_back(*text);
  }
  if (right) return result;
  problem(field, "a list of strings", text_of(*value));
  return {};
}

std::vector<std::int64_t> ConfigReader::integers(std::string_view field, std::int64_t min, std::int64_t max) {
  const JsonValue* value = find(field);
  if (value == nullptr) return {};
  const auto* list = value->as<JsonValue::Array>();
  const JsonValue::Array items = list != nullptr ? *list : JsonValue::Array{*value};
  std::vector<std::int64_t> result;
  for (const JsonValue& item : items) {
    if (!fits(item, min, max)) {
      problem(field, integer_range(min, max) + ", or a list of them", text_of(*value));
      return {};
    }
    result.push_back(*item.as<std::int64_t>());
  }
  return result;
}

void ConfigReader::require_off(std::initializer_list<std::string_view> fields) {
  for (const std::string_view field : fields) {
    const JsonValue* value = find(field);
    if (value != nullptr && !is_off(*value)) problem(field, "nothing (this feature is not supported)", text_of(*value));
  }
}

void ConfigReader::require_one(std::initializer_list<std::string_view> fields) {
  for (const std::string_view field : fields) {
    const JsonValue* value = find(field);
    if (value != nullptr && number_of(*value) != 1.0) problem(field, "1 or nothing (this feature is not supported)", text_of(*value));
  }
}

void ConfigReader::require_known(std::initializer_list<std::string_view> known) {
  for (const auto& [field, value] : *object_->as<JsonValue::Object>()) {
    if (is_null(value) || std::find(known.begin(), known.end(), field) != known.end()) continue;
    problem(printable(field), "no such field (it is not supported here)", text_of(value));
  }
}

std::optional<ConfigReader> ConfigReader::object(std::string_view field) {
  const JsonValue* value = find(field);
  if (value == nullptr) return std::nullopt;
  if (value->as<JsonValue::Object>() != nullptr) return ConfigReader(state_, *value, prefix_ + std::string(field) + ".");
  problem(field, "an object", text_of(*value));
  return std::nullopt;
}

void ConfigReader::finish() const {
  const auto& problems = state_->problems;
  if (problems.empty()) return;
  CheckpointFault fault{.file = state_->file};
  if (problems.size() == 1) {
    fault.field = problems[0].field;
    fault.expected = problems[0].expected;
    fault.found = problems[0].found;
    throw CheckpointError("the configuration cannot be used", std::move(fault));
  }
  for (const Problem& one : problems) {
    fault.field += (fault.field.empty() ? "" : ", ") + one.field;
    fault.expected += (fault.expected.empty() ? "" : "; ") + one.field + " = " + one.expected;
    fault.found += (fault.found.empty() ? "" : "; ") + one.field + " = " + one.found;
  }
  throw CheckpointError("the configuration cannot be used: " + std::to_string(problems.size()) + " problems", std::move(fault));
}

}  // namespace gossamer
