// How large the KV cache is and how long a sequence may get: integers in, integers out.
#pragma once

#include <cstdint>

namespace gossamer {

struct KvBudget {
  std::int64_t bytes_per_block = 0;  // all layers, keys and values
  std::int64_t block_size = 16;
  std::int64_t max_positions = 0;  // the model's
  std::int64_t max_model_len = 0;  // 0 = max_positions, or less if the memory does not suffice
  std::int64_t max_num_seqs = 1;
  std::int64_t kv_cache_memory = 0;  // bytes; 0 = a quarter of free_bytes
  std::int64_t free_bytes = 0;
};

struct KvPlan {
  std::int64_t num_blocks = 0;
  std::int64_t max_model_len = 0;
  bool is_shortened = false;  // max_model_len is less than the model allows, for lack of memory
};

// The smaller of what max_num_seqs full-length sequences need and what the budget allows. Throws InvalidArgument when max_model_len is
// out of range and OutOfMemoryError when not even one sequence of that length fits.
KvPlan plan_kv_cache(const KvBudget& budget);

// Memory that this process may still take: the machine's, cut by the cgroup's limit.
std::int64_t available_host_memory();

}  // namespace gossamer
