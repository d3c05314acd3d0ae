// Sums over GPUs as a decode step does them, recorded in a graph: NCCL's and the one-shot exchange, in turns. One process a GPU.
//   all_reduce_bench RANKS > rows.json
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/rank_group.h"
#include "core/error.h"
#include "core/memory.h"
#include "ops/plugin.h"

namespace gossamer {
namespace {

constexpr int kSums = 96;  // of a replay: a layer has two
constexpr int kReplays = 10;
constexpr int kRounds = 5;

struct Size {
  std::int64_t tokens, hidden;
};
constexpr Size kSizes[] = {{1, 7168},  {8, 7168},  {1, 9216},   {8, 9216},   {16, 9216},  {32, 9216},  {64, 9216},
                           {1, 12288}, {8, 12288}, {16, 12288}, {32, 12288}, {512, 9216}, {2048, 9216}};

// A rank's ends of connections made before the processes part.
std::vector<RankLinks> linked_ranks(int size) {
  std::vector<RankLinks> all(static_cast<std::size_t>(size));
  all[0].control.resize(all.size());
  all[0].liveness.resize(all.size());
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    for (std::vector<Socket> RankLinks::* kind : {&RankLinks::control, &RankLinks::liveness}) {
      int ends[2] = {-1, -1};
      check(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
      (all[0].*kind)[rank] = Socket(ends[0]);
      (all[rank].*kind).push_back(Socket(ends[1]));
    }
  }
  return all;
}

// Of one size, through one communicator.
class Sums {
 public:
  Sums(Ops& ops, Communicator& comm, Size size, std::uint64_t key)
      : ops_(ops), comm_(comm), key_(key), x_(ops.allocator(), DType::f16, {size.tokens, size.hidden}) {}

  // Whether every rank's 1 + rank, summed once, is the same everywhere.
  bool is_right() {
    HostAllocator allocator;
    const OwnedTensor host(allocator, DType::f16, {x_.view.size(0), x_.view.size(1)});
    const auto count = static_cast<std::size_t>(x_.view.numel());
    std::fill_n(host.view.data<Float16>(), count, from_float<Float16>(static_cast<float>(1 + comm_.rank())));
    ops_.upload(x_.view, host.view);
    comm_.all_reduce_sum(ops_, x_.view);
    ops_.download(host.view, x_.view);
    const auto expected = static_cast<float>(comm_.size() * (comm_.size() + 1) / 2);
    const Float16* values = host.view.data<Float16>();
    return std::all_of(values, values + count, [&](Float16 value) { return to_float(value) == expected; });
  }

  // Microseconds a sum. What is summed grows without bound; speed does not depend on it.
  double microseconds() {
    const auto replay = [this] {
      ops_.run_recorded(key_, [this] {
        for (int i = 0; i < kSums; ++i) comm_.all_reduce_sum(ops_, x_.view);
      });
    };
    for (int i = 0; i < 3; ++i) replay();  // the first two record
    comm_.barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kReplays; ++i) replay();
    ops_.synchronize();
    const std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
    comm_.barrier();
    return taken.count() / (kSums * kReplays);
  }

 private:
  Ops& ops_;
  Communicator& comm_;
  std::uint64_t key_;
  OwnedTensor x_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run_rank(int rank, int size, RankLinks links) {
  RankGroup group(rank, size, std::move(links), {.watchdog = std::chrono::seconds(20)});
  const Backend& backend = load_backend("cuda");
  const std::unique_ptr<Ops> ops = backend.create_ops(rank, DType::f16);
  const std::unique_ptr<Communicator> nccl = backend.create_communicator(*ops, group, {});
  const std::unique_ptr<Communicator> one_shot = backend.create_communicator(*ops, group, {.one_shot = true});
  if (rank == 0) std::printf("[");
  std::uint64_t key = 0;
  for (const Size size_of_sum : kSizes) {
    Sums by_nccl(*ops, *nccl, size_of_sum, ++key), by_one_shot(*ops, *one_shot, size_of_sum, ++key);
    const bool is_right = group.minimum(by_nccl.is_right() && by_one_shot.is_right() ? 1 : 0) == 1;
    std::vector<double> nccl_us, one_shot_us, ratios;
    for (int round = 0; round < kRounds; ++round) {
      nccl_us.push_back(by_nccl.microseconds());
      one_shot_us.push_back(by_one_shot.microseconds());
      ratios.push_back(nccl_us.back() / one_shot_us.back());
    }
    if (rank != 0) continue;
    std::printf(
        "%s\n {\"ranks\": %d, \"tokens\": %ld, \"hidden_size\": %ld, \"bytes\": %ld, \"is_right\": %s, \"nccl_us\": %.2f, "
        "\"one_shot_us\": %.2f, \"speedup\": %.3f}",
        key > 2 ? "," : "", size, static_cast<long>(size_of_sum.tokens), static_cast<long>(size_of_sum.hidden),
        static_cast<long>(2 * size_of_sum.tokens * size_of_sum.hidden), is_right ? "true" : "false", median(nccl_us), median(one_shot_us),
        median(ratios));
    std::fflush(stdout);
  }
  if (rank == 0) std::printf("\n]\n");
  group.barrier();
  group.leave();
}

}  // namespace
}  // namespace gossamer

int main(int argc, char** argv) {
  const int size = argc == 2 ? std::atoi(argv[1]) : 0;
  if (size < 2) {
    std::fprintf(stderr, "usage: all_reduce_bench RANKS, two or more\n");
    return 2;
  }
  std::vector<gossamer::RankLinks> links = gossamer::linked_ranks(size);
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    const pid_t child = ::fork();  // before anything of CUDA
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    gossamer::RankLinks own = std::move(links[static_cast<std::size_t>(rank)]);
    links.clear();  // so that a rank that dies is seen: only it holds its ends
    try {
      gossamer::run_rank(rank, size, std::move(own));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      return 1;
    }
    std::fflush(stdout);
    return 0;
  }
  links.clear();
  int failures = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    failures += status != 0;
  }
  return failures == 0 ? 0 : 1;
}
