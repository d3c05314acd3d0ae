// A C++ writer of small checkpoints whose every part can be changed before the digests are made, or left out of them afterwards.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/sha256.h"
#include "core/tensor.h"
#include "sparse/sparse_weight.h"
#include "support/memory_directory.h"

namespace gossamer::testing {

using Json = nlohmann::ordered_json;

inline std::string sha256_of(std::string_view text) { return to_hex(sha256(std::as_bytes(std::span(text.data(), text.size())))); }

inline Json file_record(std::string_view contents) {
  constexpr std::size_t kChunk = std::size_t{16} << 20;
  Json chunks = Json::array();
  Sha256 over_chunks;
  for (std::size_t at = 0; at < contents.size(); at += kChunk) {
    const std::string_view chunk = contents.substr(at, kChunk);
    const Sha256Digest digest = sha256(std::as_bytes(std::span(chunk.data(), chunk.size())));
    over_chunks.update(digest);
    chunks.push_back(to_hex(digest));
  }
  return {{"bytes", contents.size()}, {"sha256", to_hex(over_chunks.finish())}, {"chunks", chunks}};
}

// Puts the digest in front of a manifest's JSON text, which must be an object with at least one member.
inline std::string with_digest(std::string_view json) {
  const std::string covered = "\", " + std::string(json.substr(1));
  return "{\"digest\": \"sha256:" + sha256_of(covered) + covered;
}

// One safetensors file in the making.
struct TestShard {
  Json header = Json::object();
  std::string data;
  std::optional<std::string> raw_header;  // instead of `header`, padding included

  void add(const std::string& name, const char* dtype, const std::vector<std::int64_t>& shape, std::string_view bytes) {
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  }
  std::string header_text() const {
    std::string text = raw_header ? *raw_header : header.dump();
    if (!raw_header) text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
  }
  static std::string length_bytes(std::uint64_t length) { return std::string(reinterpret_cast<const char*>(&length), sizeof(length)); }
  std::string file() const {
    const std::string text = header_text();
    return length_bytes(text.size()) + text + data;
  }
};

struct TestCheckpoint {
  std::map<std::string, TestShard> shards;
  Files side_files{{"config.json", R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})"}};
  Json manifest{{"format", "gossamer-checkpoint"},
                {"format_version", 1},
                {"required_features", Json::array()},
                {"model_id", ""},
                {"producer", "gossamer test"},
                {"architecture", "LlamaForCausalLM"},
                {"source", {{"kind", "huggingface"}, {"name", "tiny"}, {"sha256", std::string(64, '0')}}},
                {"pruning", nullptr},
                {"tensors", Json::object()},
                {"files", Json::object()}};

  static std::string_view bytes_of(const Tensor& tensor) {
    return {static_cast<const char*>(tensor.raw()), static_cast<std::size_t>(tensor.nbytes())};
  }
  static std::string shard_dtype(DType dtype) {
    switch (dtype) {
      case DType::f32: return "F32";
      case DType::f16: return "F16";
      case DType::i8: return "I8";
      case DType::e4m3: return "F8_E4M3";
      case DType::i4: return "U8";
      default: return "BF16";
    }
  }
  static std::vector<std::int64_t> shape_of(const Tensor& tensor) {
    std::vector<std::int64_t> shape;
    for (int axis = 0; axis < tensor.rank(); ++axis) shape.push_back(tensor.size(axis));
    return shape;
  }

  void add_dense(const std::string& shard, const std::string& name, const Tensor& tensor) {
    shards[shard].add(name, shard_dtype(tensor.dtype()).c_str(), shape_of(tensor), bytes_of(tensor));
    manifest["tensors"][name] = {
        {"encoding", "dense"}, {"dtype", std::string(name_of(tensor.dtype()))}, {"shape", shape_of(tensor)}, {"shard", shard}};
  }
  // name ends with ".weight".
  void add_scaled(const std::string& shard, const std::string& name, const ScaledMatrix& matrix) {
    const std::int64_t width = matrix.dtype() == DType::i4 ? gossamer::bytes_of(DType::i4, matrix.cols()) : matrix.cols();
    std::string rows;
    for (std::int64_t r = 0; r < matrix.rows(); ++r)
      rows.append(static_cast<const char*>(matrix.values.select(0, r).raw()), static_cast<std::size_t>(width));
    shards[shard].add(name, shard_dtype(matrix.dtype()).c_str(), {matrix.rows(), width}, rows);
    manifest["tensors"][name] = {{"encoding", "dense"},
                                 {"dtype", std::string(name_of(matrix.dtype()))},
                                 {"shape", {matrix.rows(), matrix.cols()}},
                                 {"shard", shard}};
    add_scales(shard, name, matrix.scales, matrix.group, matrix.cols());
  }
  void add_scales(const std::string& shard, const std::string& name, const Tensor& scales, std::int64_t group, std::int64_t cols) {
    const bool whole_row = group == cols;
    const std::vector<std::int64_t> shape = whole_row ? std::vector{scales.size(0)} : shape_of(scales);
    shards[shard].add(name.substr(0, name.size() - 7) + ".scale", "F32", shape, bytes_of(scales));
    manifest["tensors"][name]["scale_group"] = whole_row ? Json(nullptr) : Json(group);
    announce("scales");
  }
  void announce(const char* feature) {
    Json& features = manifest["required_features"];
    if (std::find(features.begin(), features.end(), feature) == features.end()) features.push_back(feature);
  }
  void add_sparse(const std::string& shard, const std::string& name, const SparseWeight& weight) {
    const std::string stem = name.substr(0, name.size() - 7);
    const std::vector<std::int64_t> shape{weight.rows, weight.cols};
    TestShard& out = shards[shard];
    out.add(stem + ".shape", "I64", {2}, {reinterpret_cast<const char*>(shape.data()), 16});
    out.add(stem + ".compressed", shard_dtype(weight.dtype()).c_str(), {weight.dtype() == DType::i4 ? weight.nnz() / 2 : weight.nnz()},
            bytes_of(weight.values));
    out.add(stem + ".bitmask", "U8", {weight.rows, weight.mask_stride()}, bytes_of(weight.mask));
    out.add(stem + ".row_offsets", "I64", {weight.rows}, bytes_of(weight.row_offsets.rows(0, weight.rows)));
    manifest["tensors"][name] = {
        {"encoding", "bitmap"}, {"dtype", std::string(name_of(weight.dtype()))}, {"shape", shape}, {"shard", shard}, {"nnz", weight.nnz()}};
    announce("bitmap");
    if (weight.group > 0) add_scales(shard, name, weight.scales, weight.group, weight.cols);
  }

  Json& record(const std::string& tensor) { return manifest["tensors"][tensor]; }

  // Every file but the manifest.
  Files contents() const {
    Files files = side_files;
    for (const auto& [name, shard] : shards) files[name] = shard.file();
    return files;
  }
  // Brings the manifest's `files` and model id up to date with the given files.
  void describe(const Files& files) {
    manifest["files"] = Json::object();
    for (const auto& [name, text] : files) manifest["files"][name] = file_record(text);
    manifest["model_id"] = model_id();
  }
  std::string model_id() const {
    std::map<std::string, std::string> digests;
    for (const auto& [name, record] : manifest["files"].items()) digests[name] = record["sha256"].get<std::string>();
    std::string lines;
    for (const auto& [name, digest] : digests) lines += name + " " + digest + "\n";
    return sha256_of(lines);
  }
  // The directory, all digests right.
  Files build() {
    Files files = contents();
    describe(files);
    return seal(std::move(files));
  }
  // The directory with the manifest as it is, whatever it says; only its own digest is made.
  Files seal(Files files) const {
    files["gossamer.json"] = with_digest(manifest.dump());
    return files;
  }
};

}  // namespace gossamer::testing
