// JSON from untrusted files: UTF-8, no duplicate keys, no trailing bytes, bounded depth and size; objects keep their order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gossamer {

struct JsonValue {
  using Array = std::vector<JsonValue>;
  using Object = std::vector<std::pair<std::string, JsonValue>>;
  // An integer that does not fit becomes a double, so whoever wants an integer refuses it.
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object> data;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&data);
  }
  std::string describe() const;  // for messages: `-5`, `the string "abc"`, `an array of 3`
  std::string dump() const;      // compact JSON text
};

inline constexpr int kMaxJsonDepth = 8;
inline constexpr std::size_t kMaxJsonValues = 2'000'000;
inline constexpr std::size_t kMaxJsonKeyBytes = 256;

// Throws CheckpointError with the file and the byte offset (base_offset = where the text begins in the file).
JsonValue parse_strict_json(std::string_view text, const std::string& file, std::int64_t base_offset = 0);

// An object whose members are being checked. Knows where it is, so that messages say `tensors.lm_head.weight.nnz`.
class JsonFields {
 public:
  JsonFields(const JsonValue& value, std::string file, std::string path);

  const JsonValue::Object& members() const { return *object_; }
  const JsonValue* find(std::string_view name) const;  // null if there is none
  const JsonValue& member(std::string_view name) const;
  const std::string& string(std::string_view name) const;
  const JsonValue::Array& array(std::string_view name) const;
  std::int64_t integer(std::string_view name, std::int64_t min, std::int64_t max) const;
  JsonFields object(std::string_view name) const;
  JsonFields nested(const JsonValue::Object::value_type& member) const;  // of members(), without looking it up
  void allow_only(std::initializer_list<std::string_view> names) const;

  std::string path_of(std::string_view name) const;
  [[noreturn]] void fail(std::string_view name, std::string expected, std::string found) const;

 private:
  const JsonValue::Object* object_;
  std::string file_;
  std::string path_;
};

// The integers of an array, each in [min, max].
std::vector<std::int64_t> integers_of(const JsonFields& fields, std::string_view name, std::int64_t min, std::int64_t max);

}  // namespace gossamer
