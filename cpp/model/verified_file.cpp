#include "model/verified_file.h"

#include <algorithm>
#include <vector>

#include "core/sha256.h"
#include "model/manifest.h"

namespace gossamer {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{256} << 10;  // read and hashed at a time: stays in the L2 cache

struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

Range intersect(Range a, Range b) {
  const std::uint64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

}  // namespace

VerifiedFile::VerifiedFile(const Directory& directory, const std::string& name, const FileRecord& record, Verify verify)
    : name_(name), record_(&record), file_(directory.open(name)) {
  if (file_->size() != record.bytes) {
    throw CheckpointError("a file does not have the size that the manifest says",
                          {.file = name,
                           .offset = static_cast<std::int64_t>(std::min(file_->size(), record.bytes)),
                           .field = "files." + name + ".bytes",
                           .expected = std::to_string(record.bytes),
                           .found = std::to_string(file_->size()),
                           .fix = "The download or copy was cut short, or the file belongs to another model: fetch or convert it again."});
  }
  if (verify == Verify::full) verified_ = std::make_unique<std::atomic<bool>[]>(record.chunks.size());
}

void VerifiedFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  for (std::uint64_t at = offset / kChunkBytes; at * kChunkBytes < offset + out.size(); ++at) read_chunk(at, offset, out);
}

void VerifiedFile::read(std::uint64_t offset, std::span<std::byte> out, ThreadPool& pool) const {
  if (out.empty()) return;
  const std::uint64_t first = offset / kChunkBytes;
  const std::uint64_t last = (offset + out.size() - 1) / kChunkBytes;
  pool.parallel_for(static_cast<std::int64_t>(last - first + 1), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) read_chunk(first + static_cast<std::uint64_t>(i), offset, out);
  });
}

void VerifiedFile::verify_all() const {
  for (std::uint64_t chunk = 0; chunk < record_->chunks.size(); ++chunk) read_and_hash_chunk(chunk, 0, {});
}

// Fills the part of out (which lies at `offset` in the file) that is inside the chunk.
void VerifiedFile::read_chunk(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) const {
  if (verified_ && !verified_[chunk].load(std::memory_order_acquire)) {
    read_and_hash_chunk(chunk, offset, out);
    verified_[chunk].store(true, std::memory_order_release);
    return;
  }
  const Range wanted = intersect({chunk * kChunkBytes, (chunk + 1) * kChunkBytes}, {offset, offset + out.size()});
  file_->read_at(wanted.begin, out.subspan(wanted.begin - offset, wanted.end - wanted.begin));
}

// What is wanted goes straight to out, the rest of the chunk through a small scratch buffer.
void VerifiedFile::read_and_hash_chunk(std::uint64_t chunk, std::uint64_t offset, std::span<std::byte> out) const {
  const Range all{chunk * kChunkBytes, std::min((chunk + 1) * kChunkBytes, record_->bytes)};
  const Range wanted = out.empty() ? Range{all.end, all.end} : intersect(all, {offset, offset + out.size()});
  std::vector<std::byte> scratch;
  Sha256 hash;
  for (std::uint64_t at = all.begin; at < all.end;) {
    const bool inside = at >= wanted.begin && at < wanted.end;
    const std::uint64_t limit = inside ? wanted.end : at < wanted.begin ? wanted.begin : all.end;
    const std::size_t count = std::min(kPieceBytes, limit - at);
    if (!inside && scratch.size() < count) scratch.resize(count);
    const std::span<std::byte> piece = inside ? out.subspan(at - offset, count) : std::span(scratch).first(count);
    file_->read_at(at, piece);
    hash.update(piece);
    at += count;
  }
  const std::string actual = to_hex(hash.finish());
  if (actual != record_->chunks[chunk]) {
    throw ChecksumError("the file's contents are not what the manifest says",
                        {.file = name_,
                         .offset = static_cast<std::int64_t>(all.begin),
                         .field = "files." + name_ + ".chunks[" + std::to_string(chunk) + "]",
                         .expected = record_->chunks[chunk],
                         .found = actual,
                         .fix = "The file is damaged or belongs to another model: fetch or convert it again."});
  }
}

}  // namespace gossamer
