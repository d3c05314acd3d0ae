#include "kv/kv_cache.h"

#include <limits>
#include <string>

namespace gossamer {
namespace {

std::size_t pool_bytes(const KvCacheShape& shape) {
  require(shape.num_layers >= 0 && shape.num_blocks >= 0, "a KV cache's sizes are not negative");
  std::int64_t bytes = 0;
  require(!__builtin_mul_overflow(shape.num_blocks, shape.bytes_per_block(), &bytes), "the KV cache has more than 2^63 bytes");
  return static_cast<std::size_t>(bytes);
}

Buffer allocate_pool(Allocator& allocator, const KvCacheShape& shape) {
  const std::size_t bytes = pool_bytes(shape);
  try {
    return Buffer(allocator, bytes);
  } catch (const OutOfMemoryError& error) {
    throw OutOfMemoryError(bytes, error.free_bytes, "kv cache", "Lower kv_cache_memory, max_num_seqs or max_model_len");
  }
}

}  // namespace

std::int64_t KvCacheShape::bytes_per_block() const {
  require(num_layers >= 0 && block_size >= 0 && num_kv_heads >= 0 && head_dim >= 0, "a KV cache's sizes are not negative");
  std::int64_t bytes = 2 * static_cast<std::int64_t>(size_of(dtype));  // K and V
  bool overflow = false;
  for (const std::int64_t size : {num_layers, block_size, num_kv_heads, head_dim}) {
    overflow = __builtin_mul_overflow(bytes, size, &bytes) || overflow;
  }
  require(!overflow, "a KV block has more than 2^63 bytes");
  return bytes;
}

KvCache::KvCache(Allocator& allocator, const KvCacheShape& shape) : shape_(shape), pool_(allocate_pool(allocator, shape)) {
  require(is_floating(shape.dtype), "the KV dtype must be f32, f16 or bf16, not " + std::string(name_of(shape.dtype)));
  const std::initializer_list<std::int64_t> page_shape{shape.num_blocks, shape.num_kv_heads, shape.block_size, shape.head_dim};
  const std::size_t half_layer = shape.num_layers == 0 ? 0 : pool_.bytes() / static_cast<std::size_t>(2 * shape.num_layers);
  layers_.reserve(static_cast<std::size_t>(shape.num_layers));
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape.num_layers); ++i) {
    layers_.push_back(
        {pool_.view(shape.dtype, page_shape, 2 * i * half_layer), pool_.view(shape.dtype, page_shape, (2 * i + 1) * half_layer)});
  }
}

std::int64_t KvCache::nbytes() const { return static_cast<std::int64_t>(pool_.bytes()); }

}  // namespace gossamer
