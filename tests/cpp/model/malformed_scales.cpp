// Malformed checkpoints whose weights have scales.
#include <cstring>

#include "support/malformed_cases.h"
#include "support/tiny_checkpoint.h"

namespace gossamer::testing {
namespace {

using Cases = std::vector<MalformedCase>;

char* bytes_of(TestShard& shard, const char* name) { return shard.data.data() + shard.header[name]["data_offsets"][0].get<std::size_t>(); }

void set_float(TestShard& shard, const char* name, std::size_t i, std::uint32_t bits) {
  std::memcpy(bytes_of(shard, name) + 4 * i, &bits, 4);
}

void set_offset(TestShard& shard, std::size_t row, std::int64_t change) {
  std::int64_t value = 0;
  char* at = bytes_of(shard, "up.row_offsets") + 8 * row;
  std::memcpy(&value, at, 8);
  value += change;
  std::memcpy(at, &value, 8);
}

// An odd row's unused half byte gets a value: flips row 0's first kept weight out of the mask where its count is even, so that it is odd.
void fill_padding(TestShard& shard) {
  for (const std::size_t row : {0U, 1U, 2U}) {
    char* mask = bytes_of(shard, "up.bitmask") + 25 * row;
    int kept = 0;
    for (int i = 0; i < 200; ++i) kept += mask[i / 8] >> (i % 8) & 1;
    for (int i = 0; kept % 2 == 0; ++i) {
      if ((mask[i / 8] >> (i % 8) & 1) == 0) continue;
      mask[i / 8] = static_cast<char>(mask[i / 8] ^ (1 << (i % 8)));
      --kept;
    }
    std::int64_t first = 0;
    std::memcpy(&first, bytes_of(shard, "up.row_offsets") + 8 * row, 8);
    bytes_of(shard, "up.compressed")[(first + kept) / 2] = 0x77;
  }
}

}  // namespace

std::vector<MalformedCase> malformed_scales() {
  Cases cases;
  const auto tensors = [&cases](const char* name, std::function<void(Json&)> edit, const char* text, Fault fault = Fault::malformed) {
    cases.push_back({name, [edit] { return with_manifest([&](Json& m) { edit(m["tensors"]); }, tiny_scaled_checkpoint()); }, fault, text});
  };
  const auto top = [&cases](const char* name, std::function<void(Json&)> edit, const char* text, Fault fault = Fault::malformed) {
    cases.push_back({name, [edit] { return with_manifest(edit, tiny_scaled_checkpoint()); }, fault, text});
  };
  const auto shard = [&cases](const char* name, std::function<void(TestShard&)> edit, const char* text) {
    cases.push_back({name, [edit] { return with_shard(edit, tiny_scaled_checkpoint()); }, Fault::malformed, text});
  };
  top("scales not announced", [](Json& m) { m["required_features"] = {"bitmap"}; }, "\"scales\", which tensor down.weight uses");
  top(
      "a feature of a later version", [](Json& m) { m["required_features"] = {"bitmap", "scales", "zero points"}; },
      "the string \"zero points\"", Fault::version);
  tensors("scale group missing", [](Json& t) { t["up.weight"].erase("scale_group"); }, "field tensors.up.weight.scale_group");
  tensors("scale group of 0", [](Json& t) { t["up.weight"]["scale_group"] = 0; }, "found 0");
  tensors("negative scale group", [](Json& t) { t["up.weight"]["scale_group"] = -64; }, "found -64");
  tensors("scale group of 32", [](Json& t) { t["up.weight"]["scale_group"] = 32; }, "a multiple of 64, found 32");
  tensors("scale group of a whole row", [](Json& t) { t["up.weight"]["scale_group"] = 200; }, "less than 200 columns");
  tensors("scale group above the row", [](Json& t) { t["up.weight"]["scale_group"] = 256; }, "less than 200 columns");
  tensors("scale group as text", [](Json& t) { t["up.weight"]["scale_group"] = "64"; }, "field tensors.up.weight.scale_group");
  tensors(
      "scale group of a floating tensor", [](Json& t) { t["fc.weight"]["scale_group"] = nullptr; }, "field tensors.fc.weight.scale_group");
  tensors("another scale group", [](Json& t) { t["up.weight"]["scale_group"] = 128; }, "up.scale is F32[3, 4] instead of F32[3, 2]");
  tensors(
      "one scale a row instead of groups", [](Json& t) { t["up.weight"]["scale_group"] = nullptr; },
      "up.scale is F32[3, 4] instead of F32[3]");
  tensors(
      "an odd number of i4 values", [](Json& t) { t["up.weight"]["nnz"] = t["up.weight"]["nnz"].get<int>() - 1; },
      "an even number of i4 values");
  tensors("i4 values beyond the weights", [](Json& t) { t["up.weight"]["nnz"] = 602; }, "from 0 to 600, found 602");
  tensors("i4 that is i8", [](Json& t) { t["up.weight"]["dtype"] = "i8"; }, "up.compressed is U8[");
  tensors("i8 that is e4m3", [](Json& t) { t["down.weight"]["dtype"] = "e4m3"; }, "down.weight is I8[4, 13] instead of F8_E4M3[4, 13]");
  tensors("i8 that is i4", [](Json& t) { t["down.weight"]["dtype"] = "i4"; }, "down.weight is I8[4, 13] instead of U8[4, 7]");
  tensors("scaled vector", [](Json& t) { t["down.weight"]["shape"] = {52}; }, "2 sizes, found 1");
  tensors("scaled tensor that is not a .weight", [](Json& t) { t["down.bias"] = t["down.weight"]; }, "does not end with .weight");
  tensors(
      "a scale stored under a tensor's name",
      [](Json& t) { t["down.scale"] = {{"encoding", "dense"}, {"dtype", "f32"}, {"shape", {4}}, {"shard", "a.safetensors"}}; },
      "a name of its own");
  tensors("a huge i4 shape", [](Json& t) { t["up.weight"]["shape"] = {1 << 30, 1 << 30}; }, "up.bitmask is U8[3, 25] instead of");
  tensors(
      "an i4 shape of 2^63 - 1 columns",
      [](Json& t) {
        t["up.weight"]["shape"] = {std::int64_t{1}, std::int64_t{0x7FFFFFFFFFFFFFFF}};
        t["up.weight"]["scale_group"] = nullptr;
      },
      "up.bitmask");
  shard("scale that is NaN", [](TestShard& s) { set_float(s, "up.scale", 5, 0x7FC00000U); }, "scale row 1");
  shard("scale that is infinite", [](TestShard& s) { set_float(s, "down.scale", 3, 0xFF800000U); }, "scale row 3");
  shard("i4 row that begins in a byte", [](TestShard& s) { set_offset(s, 1, 1); }, "row_offsets[1]");
  shard("i4 row one pair too long", [](TestShard& s) { set_offset(s, 2, 2); }, "row_offsets[2]");
  shard("i4 padding that is not 0", fill_padding, "the unused half of a row's last byte is not 0");
  shard(
      "mask bit flipped over i4",
      [](TestShard& s) {
        char* mask = bytes_of(s, "up.bitmask") + 25;
        for (int i = 0, changed = 0; changed < 2; ++i) {  // two bits, so that the row's bytes are wrong whatever its parity
          if ((mask[i / 8] >> (i % 8) & 1) != 0) continue;
          mask[i / 8] = static_cast<char>(mask[i / 8] ^ (1 << (i % 8)));
          ++changed;
        }
      },
      "the mask of a row and its values disagree");
  return cases;
}

}  // namespace gossamer::testing
