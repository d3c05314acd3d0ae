// How many threads this process may usefully run: the affinity mask, cut by the cgroup's CPU quota.
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <thread>

#include "core/thread_pool.h"

namespace gossamer {

namespace {

int cores_in_affinity_mask() {
  cpu_set_t* mask = nullptr;
  // Machines with more cores than CPU_SETSIZE answer EINVAL until the mask is large enough.
  for (int cpus = CPU_SETSIZE; cpus <= 64 * CPU_SETSIZE; cpus *= 2) {
    mask = CPU_ALLOC(static_cast<std::size_t>(cpus));
    if (mask == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(cpus));
    CPU_ZERO_S(bytes, mask);
    const bool known = sched_getaffinity(0, bytes, mask) == 0;
    const int count = known ? CPU_COUNT_S(bytes, mask) : 0;
    CPU_FREE(mask);
    if (known) return count;
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

// Quota over period, rounded up; a huge number where there is no limit.
int cores_of_quota(double quota, double period) {
  if (quota <= 0 || period <= 0) return std::numeric_limits<int>::max();
  return static_cast<int>(std::min(quota / period + 0.999, 1e6));
}

// cgroup v2: "max 100000" or "150000 100000" in cpu.max.
int cores_of_v2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return std::numeric_limits<int>::max();
  return cores_of_quota(std::strtod(quota.c_str(), nullptr), period);
}

int cores_of_v1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us");
  std::ifstream period_file(directory + "/cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return std::numeric_limits<int>::max();
  return cores_of_quota(quota, period);
}

// The tightest limit from a group up to the root of its hierarchy.
template <typename CoresOf>
int tightest(const std::string& root, std::string path, const CoresOf& cores_of) {
  int cores = cores_of(root);
  while (path.size() > 1) {
    cores = std::min(cores, cores_of(root + path));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return cores;
}

int cores_in_cgroup() {
  int cores = std::numeric_limits<int>::max();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      cores = std::min(cores, tightest("/sys/fs/cgroup", path, cores_of_v2));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      cores = std::min(cores, tightest("/sys/fs/cgroup/cpu", path, cores_of_v1));
    }
  }
  return cores;
}

}  // namespace

int available_cores() { return std::max(1, std::min(cores_in_affinity_mask(), cores_in_cgroup())); }

}  // namespace gossamer
