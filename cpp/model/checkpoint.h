// Checkpoint: strict reader of a model directory (docs/checkpoint-format.md). Opening one is safe with untrusted files.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/file_io.h"
#include "core/memory.h"
#include "core/thread_pool.h"
#include "sparse/sparse_weight.h"

namespace gossamer {

struct TensorRecord {
  enum class Encoding { dense, bitmap };
  Encoding encoding = Encoding::dense;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::string shard;
  std::int64_t nnz = 0;          // bitmap only: stored values
  std::int64_t scale_group = 0;  // of a scaled dtype: columns that share a scale, all of them (cols) or a group; else 0
};
// Bytes of all that a tensor's shard holds of it.
std::int64_t stored_bytes(const TensorRecord& record);

struct FileRecord {
  std::uint64_t bytes = 0;
  std::string sha256;
  std::vector<std::string> chunks;
};

struct Manifest {
  std::string digest;
  std::string model_id;
  std::string producer;
  std::string architecture;
  std::string pruning_json;  // "null" or the object, as text
  std::map<std::string, TensorRecord> tensors;
  std::map<std::string, FileRecord> files;
};

// Rows [begin, end) of a logical tensor.
struct TensorRows {
  std::string name;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

class ReadAhead;

enum class Verify { full, header };  // header: sizes and structure only, no data digests

class Checkpoint {
 public:
  // Reads and checks the manifest, every side file's digest and every shard's header. `path` must hold a gossamer.json; a plain Hugging
  // Face directory is a CheckpointError whose text names the exact convert command.
  static Checkpoint open(const std::string& path, Verify verify = Verify::full, bool allow_symlinks = false);
  // For tests: any Directory; `name` is used in messages.
  static Checkpoint open(std::unique_ptr<Directory> directory, const std::string& name, Verify verify = Verify::full);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const Manifest& manifest() const;
  std::string side_file(const std::string& name) const;  // contents, digest checked; empty if the manifest has no such file

  // Compares the manifest's tensors with what a model needs: all missing, extra and wrongly shaped ones in one CheckpointError.
  void require_tensors(const std::map<std::string, std::vector<std::int64_t>>& expected) const;

  // Reads and verifies all chunks that overlap the tensor, in parallel on the pool; then validates the structure. read_dense* are for
  // floating tensors, read_scaled_rows for dense ones of a scaled dtype.
  OwnedTensor read_dense(const std::string& name, Allocator& allocator, ThreadPool& pool) const;
  OwnedSparseWeight read_sparse(const std::string& name, Allocator& allocator, ThreadPool& pool) const;
  // Rows [begin, end) of a tensor alone: reads, verifies and validates no more than they need.
  OwnedTensor read_dense_rows(const std::string& name, std::int64_t begin, std::int64_t end, Allocator& allocator, ThreadPool& pool) const;
  OwnedScaledMatrix read_scaled_rows(const std::string& name, std::int64_t begin, std::int64_t end, Allocator& allocator,
                                     ThreadPool& pool) const;
  OwnedSparseWeight read_sparse_rows(const std::string& name, std::int64_t begin, std::int64_t end, Allocator& allocator,
                                     ThreadPool& pool) const;

  // While the result lives, that many threads read and verify what the reads above will be asked for, in this order; the reads take it from
  // them and give the same tensors and errors. Not beyond the checkpoint's life, and with one thread alone that reads.
  std::shared_ptr<ReadAhead> read_ahead(const std::vector<TensorRows>& order, int num_threads) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gossamer
