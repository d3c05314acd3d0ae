#include "runtime_ranks.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "comm/mpi_communicator.h"
#include "comm/mpi_library.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "ops/plugin.h"

namespace gossamer {

namespace {

constexpr int kExitCode = 70;
constexpr std::chrono::seconds kStartSlack{5};  // beyond the watchdog's time, for ranks that come up one after the other

// MPI tells the launcher, which ends the other hosts' ranks, too; should that hang, this process ends all the same.
void end_process(const std::string& why) {
  const std::string line = "gossamer: " + why + "\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  std::thread([] { MpiLibrary::load("").abort(kExitCode); }).detach();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  ::_exit(kExitCode);
}

// While the ranks find each other no monitor watches them: a rank that never comes would keep the others inside MPI for good.
class StartLimit {
 public:
  StartLimit(int rank, std::chrono::milliseconds limit) : thread_([this, rank, limit] { watch(rank, limit); }) {}
  ~StartLimit() {
    {
      const std::lock_guard lock(mutex_);
      is_over_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  StartLimit(const StartLimit&) = delete;
  StartLimit& operator=(const StartLimit&) = delete;

 private:
  void watch(int rank, std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, limit, [this] { return is_over_; })) return;
    const std::string line = "gossamer: rank " + std::to_string(rank) + " waited " + std::to_string(limit.count() / 1000) +
                             " s for the other ranks to start; the limit is watchdog_seconds and 5 more\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
    ::_exit(kExitCode);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_over_ = false;
  std::thread thread_;  // last: uses the others
};

// Host and set of cores: ranks that have both in common share those cores.
std::string place_of_this_process() {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  cpu_set_t mask;
  CPU_ZERO(&mask);
  ::sched_getaffinity(0, sizeof(mask), &mask);
  return host + std::string(reinterpret_cast<const char*>(&mask), sizeof(mask));
}

std::vector<DeviceDescription> visible_gpus() {
  try {
    return load_backend("cuda").probe().devices;
  } catch (const DeviceError&) {
    return {};
  }
}

}  // namespace

std::unique_ptr<Ranks> Ranks::join(const RuntimeOptions& options) {
  const std::optional<Launch> launch = read_launch();
  const int wanted = options.tensor_parallel_size;
  if (!launch) {
    require(wanted <= 1, "tensor_parallel_size=" + std::to_string(wanted) +
                             " needs as many processes: start this program with 'mpirun -n " + std::to_string(wanted) + " ...'");
    return nullptr;
  }
  require(wanted == 0 || wanted == launch->size, "tensor_parallel_size must be 0 or the " + std::to_string(launch->size) + " ranks that " +
                                                     launch->launcher + " started, not " + std::to_string(wanted));
  static std::atomic<bool> has_joined = false;
  require(!has_joined.exchange(true),
          "under " + launch->launcher + " a process can make one Runtime in its life; start one launch for each");
  return std::unique_ptr<Ranks>(new Ranks(*launch, options));
}

Ranks::Ranks(const Launch& launch, const RuntimeOptions& options) : launch_(launch) {
  const auto milliseconds = static_cast<std::int64_t>(std::lround(options.watchdog_seconds * 1000));
  RankLinks links = [&] {
    const StartLimit limit(launch.rank, std::chrono::milliseconds(milliseconds) + kStartSlack);
    return connect_ranks(launch);
  }();
  group_ = std::make_unique<RankGroup>(launch.rank, launch.size, std::move(links),
                                       RankGroupOptions{.watchdog = std::chrono::milliseconds(milliseconds), .end_process = &end_process});
}

Ranks::~Ranks() = default;

std::string Ranks::own_device(const std::string& device, const std::string& dtype) {
  require(!device.starts_with("cuda:"),
          "device='" + printable(device) + "' would put all ranks on one GPU; use device='cuda', which gives " + "each rank its own");
  const bool may_be_gpu = device == "cuda" || (device == "auto" && dtype != "float32");
  const std::vector<DeviceDescription> gpus = may_be_gpu ? visible_gpus() : std::vector<DeviceDescription>();
  if (gpus.empty()) return device == "auto" ? "cpu" : device;
  const std::size_t index = own_gpu(launch_, gpus.size());
  gpu_ = gpus[index].uuid;
  return "cuda:" + std::to_string(index);
}

int Ranks::share_of_cores() {
  const std::string place = place_of_this_process();
  const std::vector<std::vector<std::byte>> places = group_->gather(std::as_bytes(std::span(place.data(), place.size())));
  std::vector<std::byte> shares(static_cast<std::size_t>(launch_.size) * sizeof(std::int32_t));
  if (leads()) {
    const auto text = [&](std::size_t rank) {
      return std::string(reinterpret_cast<const char*>(places[rank].data()), places[rank].size());
    };
    std::map<std::string, std::int32_t> count;
    for (std::size_t rank = 0; rank < places.size(); ++rank) ++count[text(rank)];
    for (std::size_t rank = 0; rank < places.size(); ++rank) {
      std::memcpy(shares.data() + rank * sizeof(std::int32_t), &count[text(rank)], sizeof(std::int32_t));
    }
  }
  group_->broadcast(shares);
  std::int32_t sharers = 1;
  std::memcpy(&sharers, shares.data() + static_cast<std::size_t>(launch_.rank) * sizeof(sharers), sizeof(sharers));
  return std::max(1, available_cores() / sharers);
}

std::unique_ptr<Communicator> Ranks::make_communicator(Ops& ops, const RuntimeOptions& options) {
  const bool one_shot = options.all_reduce == "one-shot";
  if (ops.device().kind == Device::Kind::cuda) {
    // The sum of two has one order only.
    require(!options.batch_invariant || launch_.size <= 2,
            "batch_invariant is for one or two GPUs: with " + std::to_string(launch_.size) + ", NCCL orders a sum by its size");
    return load_backend("cuda").create_communicator(ops, *group_, {.one_shot = one_shot});
  }
  require(!one_shot, "all_reduce='one-shot' is for GPUs; ranks on CPUs sum over MPI");
  return make_mpi_communicator(MpiLibrary::load(launch_.launcher), *group_);
}

void Ranks::part() {
  MpiLibrary::load(launch_.launcher).finalize();
  group_->leave();
}

void Ranks::await_end() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

}  // namespace gossamer
