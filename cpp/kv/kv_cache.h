// KvCache: the device pool of KV pages, one allocation, all layers.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace gossamer {

struct KvCacheShape {
  std::int64_t num_layers = 0;
  std::int64_t num_blocks = 0;
  std::int64_t block_size = 0;
  std::int64_t num_kv_heads = 0;  // of this rank
  std::int64_t head_dim = 0;
  DType dtype = DType::f32;

  std::int64_t bytes_per_block() const;  // all layers, K and V
};

class KvCache {
 public:
  KvCache(Allocator& allocator, const KvCacheShape& shape);
  const KvCacheShape& shape() const { return shape_; }
  // A pool of a single layer serves every layer in turn: layer streaming runs one over all tokens before the next.
  const KvLayer& layer(std::int64_t i) const { return layers_[layers_.size() == 1 ? 0 : static_cast<std::size_t>(i)]; }
  std::int64_t nbytes() const;

 private:
  KvCacheShape shape_;
  Buffer pool_;
  std::vector<KvLayer> layers_;
};

}  // namespace gossamer
