#include "model/strict_json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace gossamer {
namespace {

// Receives nlohmann's events and builds JsonValues; throws at the first thing that is not allowed.
class Builder {
 public:
  Builder(const std::string& file, std::int64_t base_offset) : file_(file), base_offset_(base_offset) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) {
    const bool fits = value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    return fits ? add(static_cast<std::int64_t>(value)) : add(static_cast<double>(value));
  }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  template <typename Binary>
  bool binary(Binary&) {
    return false;  // not in text
  }
  bool start_object(std::size_t) { return open(JsonValue::Object()); }
  bool start_array(std::size_t) { return open(JsonValue::Array()); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (name.size() > kMaxJsonKeyBytes) {
      fail("a JSON key is too long", {.field = printable(name), .expected = "at most " + std::to_string(kMaxJsonKeyBytes) + " bytes"});
    }
    std::get<JsonValue::Object>(open_.back()->data).emplace_back(std::move(name), JsonValue{});
    return true;
  }
  bool end_object() {
    const auto& members = std::get<JsonValue::Object>(open_.back()->data);
    std::vector<std::string_view> names;
    names.reserve(members.size());
    for (const auto& [name, value] : members) names.push_back(name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) fail("a JSON key occurs twice", {.field = printable(*twice)});
    return close();
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    what = what.substr(what.find("] ") == std::string_view::npos ? 0 : what.find("] ") + 2);
    fail("this is not valid JSON",
         {.offset = base_offset_ + static_cast<std::int64_t>(position == 0 ? 0 : position - 1), .found = printable(what)});
  }

  JsonValue take() { return std::move(root_); }

 private:
  [[noreturn]] void fail(std::string_view what, CheckpointFault fault) const {
    fault.file = file_;
    fault.fix = "Convert or download the model again.";
    throw CheckpointError(what, std::move(fault));
  }

  // The place where the next value goes: the root, a new array element, or the member whose key was just read.
  template <typename T>
  JsonValue& place(T&& value) {
    if (++count_ > kMaxJsonValues) fail("the JSON has too many values", {.expected = "at most " + std::to_string(kMaxJsonValues)});
    JsonValue* target = &root_;
    if (!open_.empty()) {
      if (auto* array = std::get_if<JsonValue::Array>(&open_.back()->data)) {
        target = &array->emplace_back();
      } else {
        target = &std::get<JsonValue::Object>(open_.back()->data).back().second;
      }
    }
    target->data = std::forward<T>(value);
    return *target;
  }

  template <typename T>
  bool add(T&& value) {
    place(std::forward<T>(value));
    return true;
  }

  template <typename Container>
  bool open(Container container) {
    if (open_.size() == kMaxJsonDepth)
      fail("the JSON is nested too deeply", {.expected = "at most " + std::to_string(kMaxJsonDepth) + " levels"});
    // Stays valid while it is open: its parent's vector does not grow before it is closed.
    open_.push_back(&place(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& file_;
  std::int64_t base_offset_;
  JsonValue root_;
  std::vector<JsonValue*> open_;
  std::size_t count_ = 0;
};

nlohmann::ordered_json to_nlohmann(const JsonValue& value) {
  return std::visit(
      [](const auto& data) -> nlohmann::ordered_json {
        using T = std::decay_t<decltype(data)>;
        if constexpr (std::is_same_v<T, JsonValue::Array>) {
          auto out = nlohmann::ordered_json::array();
          for (const JsonValue& item : data) out.push_back(to_nlohmann(item));
          return out;
        } else if constexpr (std::is_same_v<T, JsonValue::Object>) {
          auto out = nlohmann::ordered_json::object();
          for (const auto& [name, item] : data) out.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(name, to_nlohmann(item));
          return out;
        } else {
          return data;
        }
      },
      value.data);
}

}  // namespace

JsonValue parse_strict_json(std::string_view text, const std::string& file, std::int64_t base_offset) {
  const std::size_t nul = text.find('\0');  // the parser would take it for the end
  if (nul != std::string_view::npos) {
    throw CheckpointError("this is not valid JSON",
                          {.file = file, .offset = base_offset + static_cast<std::int64_t>(nul), .found = "a NUL byte"});
  }
  if (text.empty() || text[0] != '{') {  // also keeps a byte order mark and leading space out
    throw CheckpointError("this is not a JSON object", {.file = file, .offset = base_offset, .expected = "'{' as the first byte"});
  }
  Builder builder(file, base_offset);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

std::string JsonValue::describe() const {
  if (const auto* text = as<std::string>()) return "the string \"" + printable(*text) + "\"";
  if (const auto* array = as<Array>()) return "an array of " + std::to_string(array->size());
  if (const auto* object = as<Object>()) return "an object of " + std::to_string(object->size()) + " members";
  return dump();
}

std::string JsonValue::dump() const { return to_nlohmann(*this).dump(); }

JsonFields::JsonFields(const JsonValue& value, std::string file, std::string path)
    : object_(value.as<JsonValue::Object>()), file_(std::move(file)), path_(std::move(path)) {
  if (object_ == nullptr) fail("", "an object", value.describe());
}

const JsonValue* JsonFields::find(std::string_view name) const {
  for (const auto& [key, value] : *object_) {
    if (key == name) return &value;
  }
  return nullptr;
}

const JsonValue& JsonFields::member(std::string_view name) const {
  const JsonValue* value = find(name);
  if (value == nullptr) fail(name, "this member", "nothing");
  return *value;
}

const std::string& JsonFields::string(std::string_view name) const {
  const JsonValue& value = member(name);
  const auto* text = value.as<std::string>();
  if (text == nullptr) fail(name, "a string", value.describe());
  return *text;
}

const JsonValue::Array& JsonFields::array(std::string_view name) const {
  const JsonValue& value = member(name);
  const auto* items = value.as<JsonValue::Array>();
  if (items == nullptr) fail(name, "an array", value.describe());
  return *items;
}

std::int64_t JsonFields::integer(std::string_view name, std::int64_t min, std::int64_t max) const {
  const JsonValue& value = member(name);
  const auto* number = value.as<std::int64_t>();
  if (number == nullptr || *number < min || *number > max) {
    fail(name, "an integer from " + std::to_string(min) + " to " + std::to_string(max), value.describe());
  }
  return *number;
}

JsonFields JsonFields::object(std::string_view name) const { return JsonFields(member(name), file_, path_of(name)); }

JsonFields JsonFields::nested(const JsonValue::Object::value_type& member) const {
  return JsonFields(member.second, file_, path_of(member.first));
}

void JsonFields::allow_only(std::initializer_list<std::string_view> names) const {
  for (const auto& [key, value] : *object_) {
    if (std::find(names.begin(), names.end(), key) == names.end()) fail(key, "no member of this name", value.describe());
  }
}

std::string JsonFields::path_of(std::string_view name) const {
  if (name.empty()) return path_;
  return path_.empty() ? printable(name) : path_ + "." + printable(name);
}

void JsonFields::fail(std::string_view name, std::string expected, std::string found) const {
  throw CheckpointError("the checkpoint's description is wrong", {.file = file_,
                                                                  .field = path_of(name),
                                                                  .expected = std::move(expected),
                                                                  .found = std::move(found),
                                                                  .fix = "Convert or download the model again."});
}

std::vector<std::int64_t> integers_of(const JsonFields& fields, std::string_view name, std::int64_t min, std::int64_t max) {
  std::vector<std::int64_t> numbers;
  for (const JsonValue& value : fields.array(name)) {
    const auto* number = value.as<std::int64_t>();
    if (number == nullptr || *number < min || *number > max) {
      fields.fail(name, "integers from " + std::to_string(min) + " to " + std::to_string(max), value.describe());
    }
    numbers.push_back(*number);
  }
  return numbers;
}

}  // namespace gossamer
