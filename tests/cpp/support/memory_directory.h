// A Directory whose files are in memory, with a fault point before each open and read.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file_io.h"
#include "support/faults.h"

namespace gossamer::testing {

using Files = std::map<std::string, std::string>;

class MemoryDirectory final : public Directory {
 public:
  // Both outlive the directory and its files. faults may be null.
  explicit MemoryDirectory(const Files& files, FaultPoint* faults = nullptr) : files_(files), faults_(faults) {}

  std::unique_ptr<File> open(const std::string& name) const override {
    fail_if_armed(faults_, name);
    const auto found = files_.find(name);
    if (found == files_.end()) throw CheckpointError("the file is missing", {.file = printable(name)});
    return std::make_unique<MemoryFile>(found->second, name, faults_);
  }
  bool exists(const std::string& name) const override { return files_.contains(name); }
  std::vector<std::string> list() const override {
    std::vector<std::string> names;
    for (const auto& [name, contents] : files_) names.push_back(name);
    return names;
  }

 private:
  static void fail_if_armed(FaultPoint* faults, const std::string& name) {
    if (faults != nullptr && faults->should_fail()) throw CheckpointError("reading the file failed: Input/output error", {.file = name});
  }

  class MemoryFile final : public File {
   public:
    MemoryFile(const std::string& contents, std::string name, FaultPoint* faults)
        : contents_(contents), name_(std::move(name)), faults_(faults) {}
    std::uint64_t size() const override { return contents_.size(); }
    void read_at(std::uint64_t offset, std::span<std::byte> out) const override {
      fail_if_armed(faults_, name_);
      if (offset > contents_.size() || out.size() > contents_.size() - offset) {
        throw CheckpointError("a read beyond the end of the file", {.file = name_, .offset = static_cast<std::int64_t>(offset)});
      }
      std::memcpy(out.data(), contents_.data() + offset, out.size());
    }

   private:
    const std::string& contents_;
    std::string name_;
    FaultPoint* faults_;
  };

  const Files& files_;
  FaultPoint* faults_;
};

}  // namespace gossamer::testing
