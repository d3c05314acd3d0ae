// VerifiedFile: a file of the checkpoint, read in ranges and checked against the manifest's digests while it is read.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/file_io.h"
#include "core/thread_pool.h"
#include "model/checkpoint.h"

namespace gossamer {

class VerifiedFile {
 public:
  // Opens the file and checks its size. The record must outlive this.
  VerifiedFile(const Directory& directory, const std::string& name, const FileRecord& record, Verify verify);

  const std::string& name() const { return name_; }
  std::uint64_t size() const { return record_->bytes; }

  // Fills out from the offset. A chunk (16 MiB) is hashed as a whole the first time that any of it is read; later reads trust it.
  // Throws ChecksumError. Thread-safe.
  void read(std::uint64_t offset, std::span<std::byte> out) const;
  void read(std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) const;  // chunks in parallel
  void verify_all() const;

 private:
  void read_chunk(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) const;
  void read_and_hash_chunk(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) const;

  std::string name_;
  const FileRecord* record_;
  std::unique_ptr<File> file_;
  std::unique_ptr<std::atomic<bool>[]> verified_;  // per chunk; null when digests are not wanted
};

}  // namespace gossamer
