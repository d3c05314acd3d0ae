#include "comm/mpi_communicator.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace gossamer {

namespace {

constexpr std::int64_t kSegment = 64 * 1024;  // elements that one rank sums at a time
constexpr std::int64_t kRowsAtOnce = 16;      // of all_gather_last
constexpr int kEagerTests = 2'000;            // then others may have the core
constexpr auto kPatientAfter = std::chrono::milliseconds(5);
constexpr int kNapMicroseconds = 50;

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiLibrary& mpi, RankGroup& group) : mpi_(mpi), group_(group), parts_(static_cast<std::size_t>(group.size() * kSegment)) {
    requests_.reserve(static_cast<std::size_t>(2 * group.size() * kRowsAtOnce));
  }

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }

  void all_reduce_sum(Ops& ops, const Tensor& x) override {
    check(x.dtype() == DType::f32 && x.is_contiguous() && x.device().kind == Device::Kind::cpu,
          "MpiCommunicator sums contiguous float32 on the host");
    ops.synchronize();
    float* data = x.data<float>();
    const std::int64_t slice = kSegment * size();
    for (std::int64_t begin = 0; begin < x.numel(); begin += slice) reduce_slice(data + begin, std::min(slice, x.numel() - begin));
  }

  void all_gather_last(Ops& ops, const Tensor& out, const Tensor& part) override {
    check(out.dtype() == part.dtype() && out.size(0) == part.size(0) && out.size(1) == size() * part.size(1),
          "MpiCommunicator::all_gather_last wants out [n, ranks * c] for parts [n, c]");
    ops.synchronize();
    const std::int64_t width = part.size(1) * static_cast<std::int64_t>(size_of(part.dtype()));
    for (std::int64_t begin = 0; begin < part.size(0); begin += kRowsAtOnce) {
      for (std::int64_t row = begin; row < std::min(begin + kRowsAtOnce, part.size(0)); ++row) {
        auto* const whole = static_cast<std::byte*>(out.rows(row, row + 1).raw());
        const auto* const own = static_cast<const std::byte*>(part.rows(row, row + 1).raw());
        std::memcpy(whole + rank() * width, own, static_cast<std::size_t>(width));
        for_others([&](int other) {
          receive(whole + other * width, width, other);
          send(own, width, other);
        });
      }
      wait();
    }
  }

  void broadcast(Ops& ops, const Tensor& x, int root) override {
    check(x.is_contiguous(), "MpiCommunicator::broadcast wants a contiguous tensor");
    ops.synchronize();
    if (rank() != root) {
      receive(static_cast<std::byte*>(x.raw()), x.nbytes(), root);
    } else {
      for_others([&](int other) { send(static_cast<const std::byte*>(x.raw()), x.nbytes(), other); });
    }
    wait();
  }

  void barrier() override {
    std::vector<std::byte> tokens(static_cast<std::size_t>(size()));
    for_others([&](int other) {
      receive(&tokens[static_cast<std::size_t>(other)], 1, other);
      send(&tokens[static_cast<std::size_t>(rank())], 1, other);
    });
    wait();
  }

 private:
  // Each rank sums one segment, then all give theirs to all.
  void reduce_slice(float* data, std::int64_t count) {
    const std::int64_t segment = (count + size() - 1) / size();
    const auto begin = [&](int of) { return std::min(count, of * segment); };
    const auto length = [&](int of) { return begin(of + 1) - begin(of); };
    const auto bytes = [](std::int64_t elements) { return elements * static_cast<std::int64_t>(sizeof(float)); };
    float* const own = data + begin(rank());
    const std::int64_t own_length = length(rank());
    for_others([&](int other) {
      receive(part_of(other), bytes(own_length), other);
      send(data + begin(other), bytes(length(other)), other);
    });
    wait();
    std::copy_n(own, own_length, part_of(rank()));
    std::copy_n(part_of(0), own_length, own);
    for (int other = 1; other < size(); ++other) {
      const float* part = part_of(other);
      for (std::int64_t i = 0; i < own_length; ++i) own[i] += part[i];
    }
    for_others([&](int other) {
      receive(data + begin(other), bytes(length(other)), other);
      send(own, bytes(own_length), other);
    });
    wait();
  }

  float* part_of(int rank) { return parts_.data() + rank * kSegment; }

  template <typename Body>
  void for_others(const Body& body) const {
    for (int step = 1; step < size(); ++step) body((rank() + step) % size());
  }

  // MPI keeps messages between two ranks in order, so that one tag serves all.
  void send(const void* data, std::int64_t bytes, int to) {
    if (bytes > 0) requests_.push_back(mpi_.send(data, static_cast<std::size_t>(bytes), to, 0));
  }
  void receive(void* data, std::int64_t bytes, int from) {
    if (bytes > 0) requests_.push_back(mpi_.receive(data, static_cast<std::size_t>(bytes), from, 0));
  }

  // Never longer than the watchdog allows, nor than the group lives.
  void wait() {
    std::chrono::steady_clock::time_point start{};
    for (std::int64_t tests = 0; !requests_.empty(); ++tests) {
      if (mpi_.test(requests_.back())) {
        requests_.pop_back();
        tests = 0;
        continue;
      }
      if (tests < kEagerTests) continue;
      const auto now = std::chrono::steady_clock::now();
      if (tests == kEagerTests) start = now;
      group_.require_alive();
      if (now - start < kPatientAfter) {
        ::sched_yield();
      } else {
        ::usleep(kNapMicroseconds);
      }
      if (now - start > group_.watchdog()) {
        group_.fail("rank " + std::to_string(rank()) + " waited longer than watchdog_seconds for another rank in a collective operation");
      }
    }
  }

  MpiLibrary& mpi_;
  RankGroup& group_;
  std::vector<float> parts_;  // [size, kSegment]: everyone's part of what this rank sums
  std::vector<MpiLibrary::Request> requests_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(MpiLibrary& mpi, RankGroup& group) {
  return std::make_unique<MpiCommunicator>(mpi, group);
}

}  // namespace gossamer
