// FileIO: how the reader touches the disk. A seam: tests fail the k-th call, shorten reads, or serve files from memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace gossamer {

class File {
 public:
  virtual ~File() = default;
  virtual std::uint64_t size() const = 0;
  // Fills all of out from the offset or throws CheckpointError (short read, EIO). Thread-safe (pread).
  virtual void read_at(std::uint64_t offset, std::span<std::byte> out) const = 0;
};

// One directory, opened once; names are bare file names (anything else is an UnsafePathError). No symlink is followed and only
// regular files are opened, unless allow_symlinks (for Hugging Face caches), which follows links to regular files.
class Directory {
 public:
  virtual ~Directory() = default;
  virtual std::unique_ptr<File> open(const std::string& name) const = 0;
  virtual bool exists(const std::string& name) const = 0;
  virtual std::vector<std::string> list() const = 0;  // sorted bare names
};

std::unique_ptr<Directory> open_directory(const std::string& path, bool allow_symlinks = false);

}  // namespace gossamer
