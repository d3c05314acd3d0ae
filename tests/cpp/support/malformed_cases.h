// Named malformed checkpoints, each with the error that it must give: one table for the tests and the fuzzer's seeds.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "support/test_checkpoint.h"

namespace gossamer::testing {

enum class Fault { malformed, checksum, version, unsafe_path };  // CheckpointError itself, or which class derived from it

struct MalformedCase {
  std::string name;
  std::function<Files()> make;
  Fault fault;
  std::string text;  // part of the message
};

std::vector<MalformedCase> malformed_manifests();  // digests right unless the case is about them
std::vector<MalformedCase> malformed_shards();
std::vector<MalformedCase> malformed_weights();  // well-formed files, contradictory contents
std::vector<MalformedCase> malformed_scales();   // of weights with scales

// Builders of the cases: what is changed, everything else being right.
inline Files with_manifest(const std::function<void(Json&)>& change, TestCheckpoint checkpoint) {
  Files files = checkpoint.contents();
  checkpoint.describe(files);
  change(checkpoint.manifest);
  return checkpoint.seal(std::move(files));
}
// A manifest whose JSON text had its first `from` replaced by `to`.
inline Files with_manifest_text(const std::string& from, const std::string& to, TestCheckpoint checkpoint) {
  Files files = checkpoint.contents();
  checkpoint.describe(files);
  std::string json = checkpoint.manifest.dump();
  json.replace(json.find(from), from.size(), to);
  files["gossamer.json"] = with_digest(json);
  return files;
}
inline Files with_shard(const std::function<void(TestShard&)>& change, TestCheckpoint checkpoint) {
  change(checkpoint.shards.at("a.safetensors"));
  return checkpoint.build();
}
// A shard whose header text had its first `from` replaced by `to`, padded anew.
inline Files with_header_text(const std::string& from, const std::string& to, TestCheckpoint checkpoint) {
  TestShard& shard = checkpoint.shards.at("a.safetensors");
  std::string text = shard.header.dump();
  text.replace(text.find(from), from.size(), to);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  shard.raw_header = text;
  return checkpoint.build();
}
// A shard file of any bytes, described correctly.
inline Files with_shard_file(const std::function<std::string(std::string)>& change, TestCheckpoint checkpoint) {
  Files files = checkpoint.contents();
  files["a.safetensors"] = change(files["a.safetensors"]);
  checkpoint.describe(files);
  return checkpoint.seal(std::move(files));
}
inline Files with_files(const std::function<void(Files&)>& change, TestCheckpoint checkpoint) {
  Files files = checkpoint.build();
  change(files);
  return files;
}

}  // namespace gossamer::testing
