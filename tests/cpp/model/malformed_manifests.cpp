#include "support/malformed_cases.h"
#include "support/tiny_checkpoint.h"

namespace gossamer::testing {
namespace {

using Cases = std::vector<MalformedCase>;
constexpr std::int64_t kHuge = std::int64_t{1} << 62;

void add_envelope(Cases& cases) {
  const auto raw = [&cases](const char* name, std::function<std::string(std::string)> change, Fault fault, const char* text) {
    const auto make = [change] {
      return with_files([&](Files& f) { f["gossamer.json"] = change(f["gossamer.json"]); }, tiny_checkpoint());
    };
    cases.push_back({name, make, fault, text});
  };
  const char* no_digest = "does not begin with its digest";
  raw("manifest empty", [](auto) { return std::string(); }, Fault::malformed, no_digest);
  raw("manifest with leading space", [](auto s) { return " " + s; }, Fault::malformed, no_digest);
  raw("manifest with a byte order mark", [](auto s) { return "\xEF\xBB\xBF" + s; }, Fault::malformed, no_digest);
  raw("manifest without digest", [](auto s) { return s.erase(1, 85); }, Fault::malformed, no_digest);
  raw("digest in upper case", [](auto s) { return s.substr(0, 19) + std::string(64, 'A') + s.substr(83); }, Fault::malformed, no_digest);
  raw(
      "digest of something else", [](auto s) { return s.substr(0, 19) + std::string(64, '0') + s.substr(83); }, Fault::checksum,
      "the manifest's digest is wrong");
  raw("manifest above 64 MiB", [](auto s) { return s + std::string((64 << 20) + 1 - s.size(), ' '); }, Fault::malformed, "too large");
  raw("manifest ends after the digest", [](auto) { return with_digest("{").substr(0, 83); }, Fault::malformed, no_digest);
}

void add_json(Cases& cases) {
  const auto text = [&cases](const char* name, const std::string& from, const std::string& to, const char* expected) {
    cases.push_back({name, [=] { return with_manifest_text(from, to, tiny_checkpoint()); }, Fault::malformed, expected});
  };
  const auto with_member = [&text](const char* name, const std::string& value, const char* expected) {
    text(name, "\"producer\"", "\"x\":" + value + ",\"producer\"", expected);
  };
  text("duplicate member", "\"producer\"", "\"format\":\"x\",\"producer\"", "a JSON key occurs twice (file gossamer.json, field format)");
  text("duplicate member spelled with an escape", "\"producer\"", "\"\\u0066ormat\":\"x\",\"producer\"", "a JSON key occurs twice");
  text("duplicate digest", "\"producer\"", "\"digest\":\"x\",\"producer\"", "a JSON key occurs twice");
  text("duplicate tensor", "\"norm.weight\"", "\"fc.weight\":{},\"norm.weight\"", "a JSON key occurs twice");
  text("tensor name of a megabyte", "norm.weight", std::string(1 << 20, 'n'), "a JSON key is too long");
  text("bad UTF-8", "gossamer test", "\xFF\xFE", "not valid JSON");
  text("overlong UTF-8", "gossamer test", "\xC0\xAF", "not valid JSON");
  text("lone surrogate", "gossamer test", "\\ud800", "not valid JSON");
  text("control character in a string", "gossamer test", "a\nb", "not valid JSON");
  text("NaN", "\"pruning\":null", "\"pruning\":NaN", "not valid JSON");
  text("comment", "\"pruning\"", "/* x */\"pruning\"", "not valid JSON");
  text("trailing comma", "\"pruning\":null", "\"pruning\":null,", "not valid JSON");
  with_member("number beyond double", "1e999", "not valid JSON");
  with_member("nine levels deep", std::string(8, '[') + std::string(8, ']'), "nested too deeply");
  with_member("a hundred thousand levels deep", std::string(100000, '['), "nested too deeply");
  std::string values = "[0";
  for (int i = 0; i < 2'000'000; ++i) values += ",0";
  with_member("two million values", values + "]", "too many values");
  const auto whole = [&cases](const char* name, std::function<std::string(std::string)> change, const char* expected) {
    const auto make = [change] {
      TestCheckpoint checkpoint = tiny_checkpoint();
      Files files = checkpoint.build();
      files["gossamer.json"] = with_digest(change(checkpoint.manifest.dump()));
      return files;
    };
    cases.push_back({name, make, Fault::malformed, expected});
  };
  whole("second object after the first", [](auto s) { return s + "{}"; }, "not valid JSON");
  whole("NUL and more after the object", [](auto s) { return s + std::string("\0polyglot", 9); }, "NUL byte");
  whole("object not closed", [](auto s) { return s.substr(0, s.size() - 1); }, "not valid JSON");
}

void add_members(Cases& cases) {
  const auto change = [&cases](const char* name, std::function<void(Json&)> edit, const char* text, Fault fault = Fault::malformed) {
    cases.push_back({name, [edit] { return with_manifest(edit, tiny_checkpoint()); }, fault, text});
  };
  for (const char* member :
       {"format", "format_version", "required_features", "model_id", "producer", "architecture", "source", "pruning", "tensors", "files"}) {
    cases.push_back({std::string("without ") + member,
                     [member] { return with_manifest([&](Json& m) { m.erase(member); }, tiny_checkpoint()); }, Fault::malformed,
                     std::string("field ") + member + "): expected this member"});
  }
  change("another format", [](Json& m) { m["format"] = "safetensors"; }, "field format): expected \"gossamer-checkpoint\"");
  change("version 2", [](Json& m) { m["format_version"] = 2; }, "expected 1, found 2", Fault::version);
  change("version 0", [](Json& m) { m["format_version"] = 0; }, "field format_version");
  change("version 1.0", [](Json& m) { m["format_version"] = 1.0; }, "field format_version");
  change("version as text", [](Json& m) { m["format_version"] = "1"; }, "field format_version");
  change("unknown required feature", [](Json& m) { m["required_features"] = {"bitmap", "int4"}; }, "the string \"int4\"", Fault::version);
  change("required feature not a string", [](Json& m) { m["required_features"] = {1}; }, "field required_features");
  change("bitmap not announced", [](Json& m) { m["required_features"] = Json::array(); }, "which tensor fc.weight uses");
  change("model id of another model", [](Json& m) { m["model_id"] = std::string(64, '1'); }, "field model_id", Fault::checksum);
  change("model id not hexadecimal", [](Json& m) { m["model_id"] = std::string(64, 'g'); }, "field model_id");
  change("unknown source kind", [](Json& m) { m["source"]["kind"] = "ftp"; }, "field source.kind");
  change("source digest too short", [](Json& m) { m["source"]["sha256"] = "00"; }, "field source.sha256");
  change("pruning not an object", [](Json& m) { m["pruning"] = Json::array(); }, "field pruning): expected an object");
  change(
      "sparsity above 1",
      [](Json& m) { m["pruning"] = {{"method", "m"}, {"pattern", "unstructured"}, {"sparsity", 2}, {"calibration_sha256", nullptr}}; },
      "field pruning.sparsity");
  change("tensors not an object", [](Json& m) { m["tensors"] = Json::array(); }, "field tensors): expected an object");
}

void add_files(Cases& cases) {
  const auto change = [&cases](const char* name, std::function<void(Json&)> edit, const char* text, Fault fault = Fault::malformed) {
    cases.push_back({name, [edit] { return with_manifest([&](Json& m) { edit(m["files"]); }, tiny_checkpoint()); }, fault, text});
  };
  change("config.json not listed", [](Json& f) { f.erase("config.json"); }, "field files.config.json");
  change("manifest lists itself", [](Json& f) { f["gossamer.json"] = f["config.json"]; }, "files other than the manifest");
  change("negative size", [](Json& f) { f["config.json"]["bytes"] = -1; }, "field files.config.json.bytes");
  change("size of 1e20", [](Json& f) { f["config.json"]["bytes"] = 1e20; }, "field files.config.json.bytes");
  change("size of 2^64 - 1", [](Json& f) { f["config.json"]["bytes"] = ~std::uint64_t{0}; }, "field files.config.json.bytes");
  change(
      "size beyond the chunks", [](Json& f) { f["a.safetensors"]["bytes"] = std::int64_t{1} << 62; }, "field files.a.safetensors.chunks");
  change("another size", [](Json& f) { f["config.json"]["bytes"] = 5; }, "does not have the size");
  change("chunk missing", [](Json& f) { f["config.json"]["chunks"] = Json::array(); }, "field files.config.json.chunks");
  change("chunk not hexadecimal", [](Json& f) { f["config.json"]["chunks"][0] = std::string(64, 'G'); }, "field files.config.json.chunks");
  change(
      "chunks do not give the file's digest", [](Json& f) { f["config.json"]["chunks"][0] = std::string(64, '0'); },
      "field files.config.json.sha256", Fault::checksum);
  change("unknown member in a file record", [](Json& f) { f["config.json"]["mode"] = 1; }, "field files.config.json.mode");
  change("file record not an object", [](Json& f) { f["config.json"] = 1; }, "field files.config.json): expected an object");
  for (const std::string name : {"../config.json", "/etc/passwd", "a\\b", ".hidden", "", "a b", "new\nline", "na\u00EFve", "CON:"}) {
    cases.push_back({"file name '" + printable(name) + "'",
                     [name] { return with_manifest([&](Json& m) { m["files"][name] = m["files"]["config.json"]; }, tiny_checkpoint()); },
                     Fault::unsafe_path, "not a plain name"});
  }
  change(
      "file name of 129 characters", [](Json& f) { f[std::string(129, 'x')] = f["config.json"]; }, "not a plain name", Fault::unsafe_path);
}

void add_tensors(Cases& cases) {
  const auto change = [&cases](const char* name, std::function<void(Json&)> edit, const char* text, Fault fault = Fault::malformed) {
    cases.push_back({name, [edit] { return with_manifest([&](Json& m) { edit(m["tensors"]); }, tiny_checkpoint()); }, fault, text});
  };
  change(
      "tensor name with NUL", [](Json& t) { t[std::string("a\0b", 3)] = t["norm.weight"]; }, "printable ASCII characters, found a\\u0000b");
  change("tensor name with a newline", [](Json& t) { t["a\nb"] = t["norm.weight"]; }, "printable ASCII characters, found a\\u000ab");
  change("tensor name that turns the text around", [](Json& t) { t["\u202Ea"] = t["norm.weight"]; }, "found \\u202ea");
  change("empty tensor name", [](Json& t) { t[""] = t["norm.weight"]; }, "printable ASCII characters");
  change("unknown encoding", [](Json& t) { t["norm.weight"]["encoding"] = "csr"; }, "field tensors.norm.weight.encoding");
  change("unknown dtype", [](Json& t) { t["norm.weight"]["dtype"] = "f8"; }, "field tensors.norm.weight.dtype");
  change("integer dtype", [](Json& t) { t["norm.weight"]["dtype"] = "i64"; }, "field tensors.norm.weight.dtype");
  change("rank 0", [](Json& t) { t["norm.weight"]["shape"] = Json::array(); }, "1 to 4 sizes, found 0");
  change("rank 65", [](Json& t) { t["norm.weight"]["shape"] = std::vector<int>(65, 1); }, "1 to 4 sizes, found 65");
  change("size 0", [](Json& t) { t["norm.weight"]["shape"] = {0}; }, "field tensors.norm.weight.shape");
  change("negative dimension", [](Json& t) { t["norm.weight"]["shape"] = {-5}; }, "field tensors.norm.weight.shape");
  change("fractional dimension", [](Json& t) { t["norm.weight"]["shape"] = {5.0}; }, "field tensors.norm.weight.shape");
  change("shape overflows", [](Json& t) { t["norm.weight"]["shape"] = {kHuge, kHuge}; }, "less than 2^63 bytes");
  change("bytes overflow", [](Json& t) { t["norm.weight"]["shape"] = {kHuge}; }, "less than 2^63 bytes");
  change("bitmap of rank 1", [](Json& t) { t["fc.weight"]["shape"] = {39}; }, "2 sizes, found 1");
  change("bitmap that is not a .weight", [](Json& t) { t["fc.bias"] = t["fc.weight"]; }, "does not end with .weight");
  change("nnz missing", [](Json& t) { t["fc.weight"].erase("nnz"); }, "field tensors.fc.weight.nnz");
  change("nnz above the elements", [](Json& t) { t["fc.weight"]["nnz"] = 40; }, "from 0 to 39, found 40");
  change("nnz negative", [](Json& t) { t["fc.weight"]["nnz"] = -1; }, "found -1");
  change("nnz of a dense tensor", [](Json& t) { t["norm.weight"]["nnz"] = 5; }, "field tensors.norm.weight.nnz");
  change("unknown member in a tensor record", [](Json& t) { t["norm.weight"]["scale"] = 1; }, "field tensors.norm.weight.scale");
  change("shard that is not listed", [](Json& t) { t["norm.weight"]["shard"] = "c.safetensors"; }, "field tensors.norm.weight.shard");
  change(
      "shard that is no safetensors file", [](Json& t) { t["norm.weight"]["shard"] = "config.json"; }, "field tensors.norm.weight.shard");
  change(
      "shard outside the directory", [](Json& t) { t["norm.weight"]["shard"] = "../a.safetensors"; }, "not a plain name",
      Fault::unsafe_path);
  change("two tensors stored under one name", [](Json& t) { t["fc.bitmask"] = t["norm.weight"]; }, "a name of its own");
  change("tensor missing in the manifest", [](Json& t) { t.erase("norm.weight"); }, "norm.weight is extra");
  change("tensor missing in the shard", [](Json& t) { t["other.weight"] = t["norm.weight"]; }, "other.weight is missing");
  change("tensor in another shard", [](Json& t) { t["norm.weight"]["shard"] = "b.safetensors"; }, "norm.weight is extra");
  change(
      "another dtype of the same width", [](Json& t) { t["norm.weight"]["dtype"] = "bf16"; }, "norm.weight is F16[5] instead of BF16[5]");
  change("another shape", [](Json& t) { t["embed.weight"]["shape"] = {3, 2}; }, "embed.weight is F32[2, 3] instead of F32[3, 2]");
  change(
      "bitmap said to be dense",
      [](Json& t) {
        t["fc.weight"].erase("nnz");
        t["fc.weight"]["encoding"] = "dense";
      },
      "fc.weight is missing");
  change(
      "a tiny file that declares a huge tensor", [](Json& t) { t["fc.weight"]["shape"] = {1 << 30, 1 << 30}; },
      "fc.bitmask is U8[3, 2] instead of");
}

}  // namespace

std::vector<MalformedCase> malformed_manifests() {
  Cases cases;
  add_envelope(cases);
  add_json(cases);
  add_members(cases);
  add_files(cases);
  add_tensors(cases);
  return cases;
}

}  // namespace gossamer::testing
