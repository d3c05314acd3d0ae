#include "checkpoint_fuzz.h"

#include <array>
#include <cstring>

#include "support/malformed_cases.h"
#include "support/tiny_checkpoint.h"

namespace gossamer::fuzz {
namespace {

using testing::Files;
using testing::Json;

constexpr std::array<const char*, 4> kNames{"gossamer.json", "config.json", "a.safetensors", "b.safetensors"};
constexpr std::size_t kDigestEnd = 83;  // of {"digest": "sha256:<64 hex>

// The manifest's JSON without its digest member, or "" if it has none.
std::string without_digest(const std::string& manifest) {
  const bool sealed = manifest.size() > kDigestEnd + 3 && manifest.compare(kDigestEnd, 3, "\", ") == 0;
  return sealed ? "{" + std::string(manifest, kDigestEnd + 3) : std::string();
}

void describe_files(Json& manifest, const Files& files) {
  if (!manifest.is_object() || !manifest.contains("files") || !manifest["files"].is_object()) return;
  testing::TestCheckpoint checkpoint;
  for (auto& [name, record] : manifest["files"].items()) {
    if (files.contains(name)) record = testing::file_record(files.at(name));
    if (!record.is_object() || !record.contains("sha256") || !record["sha256"].is_string()) return;
  }
  checkpoint.manifest = manifest;
  manifest["model_id"] = checkpoint.model_id();
}

void seal(Sealing sealing, Files& files) {
  std::string json = without_digest(files["gossamer.json"]);
  if (sealing == Sealing::none || json.empty()) return;
  if (sealing == Sealing::everything) {
    Json manifest = Json::parse(json, nullptr, false);
    if (manifest.is_discarded()) return;
    describe_files(manifest, files);
    json = manifest.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  files["gossamer.json"] = testing::with_digest(json);
}

}  // namespace

std::string pack(Sealing sealing, const Files& files) {
  std::string out(1, static_cast<char>(sealing));
  for (const char* name : kNames) {
    const auto found = files.find(name);
    const std::string contents = found == files.end() ? std::string() : found->second;
    const auto size = static_cast<std::uint32_t>(contents.size());
    out.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(contents);
  }
  return out;
}

Files unpack(std::string_view input) {
  Files files;
  const auto sealing = static_cast<Sealing>(input.empty() ? 0 : static_cast<unsigned char>(input[0]) % 3);
  input.remove_prefix(input.empty() ? 0 : 1);
  for (const char* name : kNames) {
    std::uint32_t size = 0;
    if (input.size() < sizeof(size)) break;
    std::memcpy(&size, input.data(), sizeof(size));
    input.remove_prefix(sizeof(size));
    files[name] = input.substr(0, size);
    input.remove_prefix(files[name].size());
  }
  seal(sealing, files);
  return files;
}

std::vector<std::string> seeds() {
  constexpr std::size_t kMaxSeed = 16384;  // the cases about sheer size would only slow the fuzzer down
  std::vector<Files> directories{testing::tiny_checkpoint().build()};
  for (const auto& cases :
       {testing::malformed_manifests(), testing::malformed_shards(), testing::malformed_weights(), testing::malformed_scales()}) {
    for (const testing::MalformedCase& malformed : cases) directories.push_back(malformed.make());
  }
  std::vector<std::string> packed;
  for (const Files& files : directories) {
    for (const Sealing sealing : {Sealing::none, Sealing::manifest, Sealing::everything}) {
      packed.push_back(pack(sealing, files));
      if (packed.back().size() > kMaxSeed) packed.pop_back();
    }
  }
  return packed;
}

}  // namespace gossamer::fuzz

// Any bytes: a load, or an error of the contract. Every other exception escapes and is a finding.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace gossamer;
  static ThreadPool pool(1);
  HostAllocator allocator;
  const testing::Files files = fuzz::unpack({reinterpret_cast<const char*>(data), size});
  for (const Verify verify : {Verify::full, Verify::header}) {
    try {
      testing::load(files, allocator, pool, verify);
    } catch (const CheckpointError&) {
    }
    check(allocator.live_bytes() == 0, "a load left memory behind");
  }
  return 0;
}
