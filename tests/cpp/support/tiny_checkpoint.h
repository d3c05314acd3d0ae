// The checkpoint that the malformed cases start from, and a way to load all of one for comparison.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "model/checkpoint.h"
#include "support/random.h"
#include "support/scaled_cases.h"
#include "support/test_checkpoint.h"

namespace gossamer::testing {

// A sparse bf16 weight [3, 13] and a dense f16 norm [5] in one shard, a dense f32 matrix [2, 3] in another.
inline TestCheckpoint tiny_checkpoint() {
  HostAllocator allocator;
  Random random(21);
  TestCheckpoint checkpoint;
  const OwnedTensor matrix = random_matrix(allocator, DType::bf16, 3, 13, 0.5, random);
  checkpoint.add_sparse("a.safetensors", "fc.weight", sparse_from_dense(matrix.view, allocator).view);
  const OwnedTensor norm = random_matrix(allocator, DType::f16, 1, 5, 1.0, random);
  checkpoint.add_dense("a.safetensors", "norm.weight", norm.view.reshape({5}));
  const OwnedTensor embedding = random_matrix(allocator, DType::f32, 2, 3, 1.0, random);
  checkpoint.add_dense("b.safetensors", "embed.weight", embedding.view);
  return checkpoint;
}

// The same, and an i4 bitmap [3, 200] with a scale for every 64 columns and a dense i8 matrix [4, 13] with one scale a row.
inline TestCheckpoint tiny_scaled_checkpoint() {
  HostAllocator allocator;
  Random random(22);
  TestCheckpoint checkpoint = tiny_checkpoint();
  const OwnedScaledMatrix up = random_scaled(allocator, DType::i4, 3, 200, 64, 0.4, random);
  checkpoint.add_sparse("a.safetensors", "up.weight", sparse_from_scaled(up.view, allocator).view);
  checkpoint.add_scaled("a.safetensors", "down.weight", random_scaled(allocator, DType::i8, 4, 13, 13, 1.0, random).view);
  return checkpoint;
}

// What a caller can get out of a checkpoint, by name; equal contents compare equal.
using Contents = std::map<std::string, std::string>;

inline Contents read_all(const Checkpoint& checkpoint, Allocator& allocator, ThreadPool& pool) {
  const auto text_of = [](const Tensor& t) {
    return t.to_string() + ":" + std::string(static_cast<const char*>(t.raw()), static_cast<std::size_t>(t.nbytes()));
  };
  Contents contents;
  for (const auto& [name, record] : checkpoint.manifest().tensors) {
    if (record.encoding == TensorRecord::Encoding::dense && is_scaled(record.dtype)) {
      const OwnedScaledMatrix matrix = checkpoint.read_scaled_rows(name, 0, record.shape[0], allocator, pool);
      contents[name] = matrix.view.values.to_string() + std::string(static_cast<const char*>(matrix.values.data()), matrix.values.bytes()) +
                       text_of(matrix.view.scales);
    } else if (record.encoding == TensorRecord::Encoding::dense) {
      contents[name] = text_of(checkpoint.read_dense(name, allocator, pool).view);
    } else {
      const OwnedSparseWeight weight = checkpoint.read_sparse(name, allocator, pool);
      contents[name] = text_of(weight.view.mask) + text_of(weight.view.values) + text_of(weight.view.row_offsets);
      if (weight.view.group > 0) contents[name] += text_of(weight.view.scales);
    }
  }
  for (const auto& [name, record] : checkpoint.manifest().files) {
    if (!name.ends_with(".safetensors")) contents["file " + name] = checkpoint.side_file(name);
  }
  return contents;
}

inline Contents load(const Files& files, Allocator& allocator, ThreadPool& pool, Verify verify = Verify::full,
                     FaultPoint* reads = nullptr) {
  return read_all(Checkpoint::open(std::make_unique<MemoryDirectory>(files, reads), "tiny", verify), allocator, pool);
}

}  // namespace gossamer::testing
