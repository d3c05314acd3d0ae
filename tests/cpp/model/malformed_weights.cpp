#include <cstring>

#include "support/malformed_cases.h"
#include "support/tiny_checkpoint.h"

namespace gossamer::testing {
namespace {

// A stored part of the sparse weight fc.weight [3, 13], as bytes that can be changed.
struct Part {
  TestShard& shard;
  const char* name;
  char* bytes() const { return shard.data.data() + shard.header[name]["data_offsets"][0].get<std::size_t>(); }
  std::int64_t integer(std::size_t i) const {
    std::int64_t value = 0;
    std::memcpy(&value, bytes() + 8 * i, 8);
    return value;
  }
  void set_integer(std::size_t i, std::int64_t value) const { std::memcpy(bytes() + 8 * i, &value, 8); }
};

void flip(const Part& mask, std::size_t row, std::size_t column) {
  char& byte = mask.bytes()[2 * row + column / 8];
  byte = static_cast<char>(byte ^ (1 << (column % 8)));
}

bool is_set(const Part& mask, std::size_t row, std::size_t column) {
  return ((mask.bytes()[2 * row + column / 8] >> (column % 8)) & 1) != 0;
}

// Moves one kept element from row 0 to row 2: the whole mask still has as many bits as there are values.
void move_bit_between_rows(TestShard& shard) {
  const Part mask{shard, "fc.bitmask"};
  std::size_t from = 0;
  std::size_t to = 0;
  while (!is_set(mask, 0, from)) ++from;
  while (is_set(mask, 2, to)) ++to;
  flip(mask, 0, from);
  flip(mask, 2, to);
}

// One value less, in the manifest and in the shard; the mask and the offsets stay.
Files with_one_value_less() {
  TestCheckpoint checkpoint = tiny_checkpoint();
  TestShard& shard = checkpoint.shards.at("a.safetensors");
  const std::int64_t nnz = shard.header["fc.compressed"]["shape"][0].get<std::int64_t>() - 1;
  const auto end = shard.header["fc.compressed"]["data_offsets"][1].get<std::size_t>();
  shard.data.erase(end - 2, 2);
  for (auto& [name, entry] : shard.header.items()) {
    for (auto& offset : entry["data_offsets"]) {
      if (offset.get<std::size_t>() >= end) offset = offset.get<std::size_t>() - 2;
    }
  }
  shard.header["fc.compressed"]["shape"] = {nnz};
  checkpoint.record("fc.weight")["nnz"] = nnz;
  return checkpoint.build();
}

}  // namespace

std::vector<MalformedCase> malformed_weights() {
  std::vector<MalformedCase> cases;
  const auto change = [&cases](const char* name, std::function<void(TestShard&)> edit, const char* text) {
    cases.push_back({name, [edit] { return with_shard(edit, tiny_checkpoint()); }, Fault::malformed, text});
  };
  change(
      "mask bit flipped", [](TestShard& s) { flip({s, "fc.bitmask"}, 1, 4); },
      "the mask of a row and its values disagree (file a.safetensors, tensor fc.weight");
  change("mask bit moved to another row", move_bit_between_rows, "row 0 begins at 0");
  change("pad bit set", [](TestShard& s) { flip({s, "fc.bitmask"}, 2, 15); }, "pad bits of a mask row are set");
  change("row offsets start at 1", [](TestShard& s) { Part{s, "fc.row_offsets"}.set_integer(0, 1); }, "row offsets must start at 0");
  change("row offsets decrease", [](TestShard& s) { Part{s, "fc.row_offsets"}.set_integer(2, 0); }, "row_offsets[2]");
  change("row offset negative", [](TestShard& s) { Part{s, "fc.row_offsets"}.set_integer(1, -1); }, "found -1");
  change(
      "row offset beyond the values", [](TestShard& s) { Part{s, "fc.row_offsets"}.set_integer(1, std::int64_t{1} << 60); },
      "row_offsets[1]");
  change(
      "row offset shifted",
      [](TestShard& s) {
        const Part offsets{s, "fc.row_offsets"};
        offsets.set_integer(1, offsets.integer(1) + 1);
      },
      "row_offsets[1]");
  change("stored shape differs", [](TestShard& s) { Part{s, "fc.shape"}.set_integer(1, 14); }, "expected [3, 13], found [3, 14]");
  change(
      "stored shape transposed",
      [](TestShard& s) {
        Part{s, "fc.shape"}.set_integer(0, 13);
        Part{s, "fc.shape"}.set_integer(1, 3);
      },
      "found [13, 3]");
  change("stored shape negative", [](TestShard& s) { Part{s, "fc.shape"}.set_integer(0, -3); }, "found [-3, 13]");
  cases.push_back({"one value less than mask bits", with_one_value_less, Fault::malformed, "row_offsets[3]"});
  const auto raw = [&cases](const char* name, std::function<void(Files&)> edit, Fault fault, const char* text) {
    cases.push_back({name, [edit] { return with_files(edit, tiny_checkpoint()); }, fault, text});
  };
  raw("shard missing", [](Files& f) { f.erase("b.safetensors"); }, Fault::malformed, "the file is missing (file b.safetensors)");
  raw("side file missing", [](Files& f) { f.erase("config.json"); }, Fault::malformed, "the file is missing (file config.json)");
  raw("shards swapped", [](Files& f) { std::swap(f["a.safetensors"], f["b.safetensors"]); }, Fault::malformed, "does not have the size");
  raw("shard longer", [](Files& f) { f["b.safetensors"] += '\0'; }, Fault::malformed, "does not have the size");
  raw("shard data changed", [](Files& f) { f["b.safetensors"].back() ^= 1; }, Fault::checksum, "files.b.safetensors.chunks[0]");
  raw("side file changed", [](Files& f) { f["config.json"][3] = 'X'; }, Fault::checksum, "files.config.json.chunks[0]");
  raw(
      "manifest of another model",
      [](Files& f) {
        TestCheckpoint other = tiny_checkpoint();
        other.shards.at("b.safetensors").data[0] ^= 1;
        f["gossamer.json"] = other.build()["gossamer.json"];
      },
      Fault::checksum, "files.b.safetensors.chunks[0]");
  return cases;
}

}  // namespace gossamer::testing
