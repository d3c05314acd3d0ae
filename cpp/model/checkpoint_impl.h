// What a checkpoint holds: opened in checkpoint.cpp, read in checkpoint_read.cpp.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/manifest.h"
#include "model/read_ahead.h"
#include "model/verified_file.h"

namespace gossamer {

// Where a stored tensor lies.
struct Location {
  const VerifiedFile* file = nullptr;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct Checkpoint::Impl {
  Impl(std::unique_ptr<Directory> dir, const std::string& name, Verify verify);

  void open_shard(const std::string& file_name, const std::vector<StoredTensor>& expected, Verify verify);
  const TensorRecord& record(const std::string& name, TensorRecord::Encoding encoding) const;
  const TensorRecord& floating_record(const std::string& name) const;
  void read(const VerifiedFile& file, std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) const;
  void read_stored(const std::string& stored_name, std::span<std::byte> out, ThreadPool& pool) const;
  void read_stored_part(const std::string& stored_name, std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) const;
  std::vector<std::int64_t> read_offsets(const PartNames& names, const TensorRecord& record, std::int64_t begin, std::int64_t end,
                                         ThreadPool& pool) const;

  std::unique_ptr<Directory> directory;
  Manifest manifest;
  std::map<std::string, std::unique_ptr<VerifiedFile>> shards;
  std::map<std::string, Location> stored;  // by stored (physical) tensor name
  std::weak_ptr<ReadAhead> ahead;          // while a load has one
};

}  // namespace gossamer
