#include "engine/kv_plan.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "core/error.h"

namespace gossamer {

namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

std::int64_t read_meminfo(const std::string& wanted) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::string rest;
  for (std::int64_t kibibytes = 0; file >> name >> kibibytes; std::getline(file, rest)) {
    if (name == wanted) return kibibytes * 1024;
  }
  return kUnlimited;
}

// A file that holds one number; "max" or nothing is no limit.
std::int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? value : kUnlimited;
}

// Page cache: it counts as used but is given up on demand.
std::int64_t reclaimable(const std::string& stat_path) {
  std::ifstream file(stat_path);
  std::string name;
  std::int64_t total = 0;
  for (std::int64_t bytes = 0; file >> name >> bytes;) {
    if (name == "inactive_file" || name == "active_file") total += bytes;
  }
  return total;
}

std::int64_t room_in_group(const std::string& directory, const std::string& limit_name, const std::string& usage_name) {
  const std::int64_t limit = read_number(directory + limit_name);
  const std::int64_t usage = read_number(directory + usage_name);
  if (limit == kUnlimited || usage == kUnlimited) return kUnlimited;
  return std::clamp<std::int64_t>(limit - usage + reclaimable(directory + "memory.stat"), 0, limit);
}

}  // namespace

std::int64_t available_host_memory() {
  return std::min({read_meminfo("MemAvailable:"), room_in_group("/sys/fs/cgroup/", "memory.max", "memory.current"),
                   room_in_group("/sys/fs/cgroup/memory/", "memory.limit_in_bytes", "memory.usage_in_bytes")});
}

KvPlan plan_kv_cache(const KvBudget& budget) {
  require(budget.max_model_len >= 0 && budget.max_model_len <= budget.max_positions,
          "max_model_len must be between 1 and the model's " + std::to_string(budget.max_positions) + ", or 0 for that, not " +
              std::to_string(budget.max_model_len));
  const std::int64_t wanted_len = budget.max_model_len > 0 ? budget.max_model_len : budget.max_positions;
  const std::int64_t blocks_per_sequence = (wanted_len + budget.block_size - 1) / budget.block_size;
  const std::int64_t needed =
      blocks_per_sequence > kUnlimited / budget.max_num_seqs ? kUnlimited : blocks_per_sequence * budget.max_num_seqs;
  const std::int64_t memory = budget.kv_cache_memory > 0 ? budget.kv_cache_memory : budget.free_bytes / 4;
  // A slot's number is a 32-bit integer.
  const std::int64_t addressable = std::numeric_limits<std::int32_t>::max() / budget.block_size;

  KvPlan plan;
  plan.num_blocks = std::min({needed, memory / budget.bytes_per_block, addressable});
  plan.max_model_len = std::min(wanted_len, plan.num_blocks * budget.block_size);
  plan.is_shortened = plan.max_model_len < wanted_len;
  if (plan.num_blocks < 1 || (plan.is_shortened && budget.max_model_len > 0)) {
    const std::int64_t wanted_blocks = budget.max_model_len > 0 ? blocks_per_sequence : 1;
    throw OutOfMemoryError(static_cast<std::size_t>(wanted_blocks * budget.bytes_per_block), memory, "kv cache",
                           "One sequence of max_model_len tokens must fit: raise kv_cache_memory, or set max_model_len to at most " +
                               std::to_string(plan.num_blocks * budget.block_size));
  }
  return plan;
}

}  // namespace gossamer
