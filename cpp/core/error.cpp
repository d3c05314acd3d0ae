#include "core/error.h"

#include <array>
#include <cstdio>
#include <utility>

namespace gossamer {
namespace {

std::string describe(std::string_view what, const CheckpointFault& fault) {
  std::string text(what);
  std::string where;
  const auto add = [&where](std::string_view label, const std::string& value) {
    if (value.empty()) return;
    if (!where.empty()) where += ", ";
    where.append(label).append(value);
  };
  add("file ", fault.file);
  add("tensor ", fault.tensor);
  add("field ", fault.field);
  add("byte offset ", fault.offset >= 0 ? std::to_string(fault.offset) : std::string());
  if (!where.empty()) text += " (" + where + ")";
  if (!fault.expected.empty()) text += ": expected " + fault.expected;
  if (!fault.found.empty()) text += (fault.expected.empty() ? ": found " : ", found ") + fault.found;
  text += '.';
  if (!fault.fix.empty()) text += " " + fault.fix;
  return text;
}

// One code point of UTF-8 at the start of text; size 0 when the bytes are not valid UTF-8.
struct CodePoint {
  std::uint32_t value = 0;
  std::size_t size = 0;
};

CodePoint decode_utf8(std::string_view text) {
  const auto byte = [&text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < size) return {};
  std::uint32_t value = lead & (0x7FU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    value = (value << 6) | (byte(i) & 0x3FU);
  }
  constexpr std::array<std::uint32_t, 5> kSmallest{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kSmallest[size] || value > 0x10FFFF || surrogate) return {};
  return {value, size};
}

// Control characters, direction overrides, line separators and zero-width characters could forge or hide text in a log.
bool is_deceptive(std::uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c <= 0x9F) || c == 0xAD || c == 0x61C || (c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E) ||
         (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB) || c >= 0xE0000;
}

template <typename... Args>
std::string formatted(const char* format, Args... args) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), format, args...);
  return text.data();
}

}  // namespace

CheckpointError::CheckpointError(std::string_view what, CheckpointFault fault) : Error(describe(what, fault)), fault_(std::move(fault)) {}

OutOfMemoryError::OutOfMemoryError(std::size_t wanted, std::int64_t free, std::string_view pool_name, std::string_view hint)
    : Error("out of memory in pool '" + std::string(pool_name) + "': wanted " + std::to_string(wanted) + " bytes" +
            (free >= 0 ? ", free " + std::to_string(free) + " bytes" : std::string()) +
            (hint.empty() ? std::string() : ". " + std::string(hint))),
      wanted_bytes(wanted),
      free_bytes(free),
      pool(pool_name) {}

ContextLengthError::ContextLengthError(std::int64_t prompt, std::int64_t added, std::int64_t max)
    : InvalidArgument("the prompt has " + std::to_string(prompt) + " tokens and " + std::to_string(added) +
                      " new tokens are asked for, but the limit is " + std::to_string(max) +
                      " tokens in all; shorten the prompt, lower max_tokens or raise max_model_len"),
      num_prompt(prompt),
      num_new(added),
      limit(max) {}

void throw_internal(std::string_view what, std::source_location where) {
  std::string_view file = where.file_name();
  file = file.substr(file.find_last_of('/') + 1);
  throw InternalError(std::string(what) + " (" + std::string(file) + ":" + std::to_string(where.line()) +
                      "); this is a bug in gossamer, please report it");
}

std::string printable(std::string_view untrusted) {
  constexpr int kMaxCharacters = 200;
  std::string text;
  for (int count = 0; !untrusted.empty(); ++count) {
    if (count == kMaxCharacters) return text + "...";
    const CodePoint point = decode_utf8(untrusted);
    if (point.size == 0) {
      text += formatted("\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(untrusted[0])));
    } else if (is_deceptive(point.value)) {
      text += formatted(point.value > 0xFFFF ? "\\U%08x" : "\\u%04x", point.value);
    } else if (point.value == '\\') {
      text += "\\\\";
    } else {
      text += untrusted.substr(0, point.size);
    }
    untrusted.remove_prefix(point.size == 0 ? 1 : point.size);
  }
  return text;
}

}  // namespace gossamer
