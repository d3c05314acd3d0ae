#include <cstring>
#include <limits>

#include "support/malformed_cases.h"
#include "support/tiny_checkpoint.h"

namespace gossamer::testing {
namespace {

using Cases = std::vector<MalformedCase>;

std::uint64_t header_bytes(const std::string& file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  return length;
}

// The same file, its header longer by 8 bytes of padding of this kind.
std::string with_padding(const std::string& file, char padding) {
  const std::uint64_t length = header_bytes(file);
  return TestShard::length_bytes(length + 8) + file.substr(8, length) + std::string(8, padding) + file.substr(8 + length);
}

void add_envelope(Cases& cases) {
  const auto file = [&cases](const std::string& name, std::function<std::string(std::string)> change, const char* text) {
    cases.push_back({name, [change] { return with_shard_file(change, tiny_checkpoint()); }, Fault::malformed, text});
  };
  file("shard empty", [](auto) { return std::string(); }, "too short for a safetensors file");
  file("shard of 7 bytes", [](auto s) { return s.substr(0, 7); }, "too short for a safetensors file");
  file("shard of 8 bytes", [](auto s) { return s.substr(0, 8); }, "length of the safetensors header");
  const std::uint64_t size = tiny_checkpoint().shards.at("a.safetensors").file().size();
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{7}, size - 8, size - 7, size, std::uint64_t{100} << 20,
        (std::uint64_t{100} << 20) + 8, std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{7}}) {
    const bool whole_file = length == size - 8 && length % 8 == 0;
    file(
        "header length " + std::to_string(length), [length](auto s) { return TestShard::length_bytes(length) + s.substr(8); },
        whole_file ? "header does not end" : "length of the safetensors header");
  }
  file(
      "big-endian header length", [](auto s) { return std::string(s.rend() - 8, s.rend()) + s.substr(8); },
      "length of the safetensors header");
  file(
      "header starts with a space",
      [](auto s) {
        s[8] = ' ';
        return s;
      },
      "'{' as the first byte");
  file("bytes after the data", [](auto s) { return s + "more"; }, "does not end with its last tensor");
  file(
      "a byte missing at the end",
      [](auto s) {
        s.pop_back();
        return s;
      },
      "to end inside the file's");
  file("header padded with NUL", [](auto s) { return with_padding(s, '\0'); }, "'}', then spaces only");
  file("header padded with newlines", [](auto s) { return with_padding(s, '\n'); }, "'}', then spaces only");
  file(
      "header not aligned",
      [](auto s) {
        const std::uint64_t length = header_bytes(s) + 1;
        return TestShard::length_bytes(length) + s.substr(8, length - 1) + " " + s.substr(7 + length);
      },
      "length of the safetensors header");
}

void add_offsets(Cases& cases) {
  const auto offsets = [&cases](const char* name, const char* tensor, Json value, const char* text) {
    const auto make = [=] { return with_shard([&](TestShard& s) { s.header[tensor]["data_offsets"] = value; }, tiny_checkpoint()); };
    cases.push_back({name, make, Fault::malformed, text});
  };
  offsets("offsets overlap", "fc.compressed", {8, 48}, "fc.compressed.data_offsets): expected to begin at 16");
  offsets("offsets leave a hole", "fc.compressed", {20, 60}, "fc.compressed.data_offsets): expected to begin at 16");
  offsets("offsets begin after 0", "fc.shape", {1, 17}, "fc.shape.data_offsets): expected to begin at 0");
  offsets("offsets reversed", "fc.shape", {0, -16}, "fc.shape.data_offsets");
  offsets("offsets end before they begin", "fc.compressed", {16, 8}, "to end inside the file's");
  offsets("offsets beyond the end", "fc.shape", {0, 1 << 20}, "to end inside the file's");
  offsets("offsets of 2^63 - 1", "fc.shape", {0, std::numeric_limits<std::int64_t>::max()}, "to end inside the file's");
  offsets("offsets of 2^64 - 1", "fc.shape", {0, ~std::uint64_t{0}}, "fc.shape.data_offsets");
  offsets("offsets of 1e20", "fc.shape", {0, 1e20}, "fc.shape.data_offsets");
  offsets("offsets negative", "fc.shape", {-16, 0}, "found -16");
  offsets("offsets fractional", "fc.shape", {0.0, 16.0}, "fc.shape.data_offsets");
  offsets("offsets as text", "fc.shape", {"0", "16"}, "the string \"0\"");
  offsets("one offset", "fc.shape", {16}, "2 integers, found 1");
  offsets("three offsets", "fc.shape", {0, 8, 16}, "2 integers, found 3");
  offsets("offsets not an array", "fc.shape", 16, "an array, found 16");
  offsets("too few bytes for the shape", "fc.shape", {0, 8}, "16 bytes for I64[2]");
  cases.push_back({"tensors not in the order of their offsets",
                   [] {
                     return with_shard(
                         [](TestShard& s) {
                           Json first = s.header["fc.shape"];
                           s.header.erase("fc.shape");
                           s.header["fc.shape"] = first;
                         },
                         tiny_checkpoint());
                   },
                   Fault::malformed, "expected to begin at 0"});
}

void add_entries(Cases& cases) {
  const auto change = [&cases](const char* name, std::function<void(Json&)> edit, const char* text) {
    cases.push_back(
        {name, [edit] { return with_shard([&](TestShard& s) { edit(s.header); }, tiny_checkpoint()); }, Fault::malformed, text});
  };
  change("dtype unknown", [](Json& h) { h["norm.weight"]["dtype"] = "F8_E5M2"; }, "norm.weight.dtype");
  change("dtype of the same width, integer", [](Json& h) { h["norm.weight"]["dtype"] = "I16"; }, "norm.weight.dtype");
  change(
      "dtype of the same width, floating", [](Json& h) { h["norm.weight"]["dtype"] = "BF16"; }, "norm.weight is BF16[5] instead of F16[5]");
  change("dtype in lower case", [](Json& h) { h["norm.weight"]["dtype"] = "f16"; }, "norm.weight.dtype");
  change("dtype a number", [](Json& h) { h["norm.weight"]["dtype"] = 16; }, "a string, found 16");
  change("dimension negative", [](Json& h) { h["norm.weight"]["shape"] = {-5}; }, "norm.weight.shape");
  change("dimension of 2^31", [](Json& h) { h["norm.weight"]["shape"] = {std::int64_t{1} << 31}; }, "bytes for F16[2147483648]");
  change("dimension of 2^63 - 1", [](Json& h) { h["norm.weight"]["shape"] = {std::numeric_limits<std::int64_t>::max()}; }, "bytes for F16");
  change(
      "dimensions overflow", [](Json& h) { h["norm.weight"]["shape"] = {std::int64_t{1} << 32, std::int64_t{1} << 32}; },
      "less than 2^64 bytes");
  change(
      "dimensions overflow to what fits", [](Json& h) { h["norm.weight"]["shape"] = {std::int64_t{1} << 62, 4, 5}; },
      "less than 2^64 bytes");
  change("dimension fractional", [](Json& h) { h["norm.weight"]["shape"] = {5.0}; }, "norm.weight.shape");
  change("rank 5", [](Json& h) { h["norm.weight"]["shape"] = {1, 1, 1, 1, 5}; }, "at most 4 sizes");
  change("shape with the same bytes", [](Json& h) { h["norm.weight"]["shape"] = {1, 5}; }, "norm.weight is F16[1, 5] instead of F16[5]");
  change("entry without shape", [](Json& h) { h["norm.weight"].erase("shape"); }, "norm.weight.shape): expected this member");
  change("entry with one member more", [](Json& h) { h["norm.weight"]["strides"] = {1}; }, "norm.weight.strides");
  change("entry not an object", [](Json& h) { h["norm.weight"] = 1; }, "an object, found 1");
  change(
      "another tensor name",
      [](Json& h) {
        h["norm.weighT"] = h["norm.weight"];
        h.erase("norm.weight");
      },
      "norm.weighT is extra, norm.weight is missing");
  change(
      "empty tensor that nobody knows",
      [](Json& h) {
        h["x"] = {{"dtype", "U8"}, {"shape", {0}}, {"data_offsets", h["norm.weight"]["data_offsets"]}};
        h["x"]["data_offsets"][0] = h["x"]["data_offsets"][1];
      },
      "x is extra");
  change("metadata not strings", [](Json& h) { h["__metadata__"] = {{"format", 1}}; }, "__metadata__.format");
  change("metadata not an object", [](Json& h) { h["__metadata__"] = "pt"; }, "__metadata__");
  change("no tensors at all", [](Json& h) { h = Json::object(); }, "does not end with its last tensor");
  const auto text = [&cases](const char* name, const std::string& from, const std::string& to, const char* expected) {
    cases.push_back({name, [=] { return with_header_text(from, to, tiny_checkpoint()); }, Fault::malformed, expected});
  };
  text("tensor twice in the header", "\"norm.weight\"", "\"fc.shape\":{},\"norm.weight\"",
       "occurs twice (file a.safetensors, field fc.shape)");
  text("tensor name with an escaped NUL", "norm.weight", "norm\\u0000weight", "norm\\u0000weight is extra");
  text("header nested deeply", "\"norm.weight\":{", "\"norm.weight\":{\"x\":" + std::string(5000, '[') + std::string(5000, ']') + ",",
       "nested too deeply");
  text("header with bad UTF-8", "norm.weight", "norm\xFFweight", "not valid JSON (file a.safetensors");
  text("header an array", "{", "[{", "'{' as the first byte");
}

}  // namespace

std::vector<MalformedCase> malformed_shards() {
  Cases cases;
  add_envelope(cases);
  add_offsets(cases);
  add_entries(cases);
  return cases;
}

}  // namespace gossamer::testing
