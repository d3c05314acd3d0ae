// The kernels' own protocol on the host: every interleaving of small groups, and threads that run freely.
#include "kernels/exchange_protocol.h"

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace gossamer::cuda {
namespace {

constexpr ExchangeUnit filled(std::uint32_t word) { return {{word, word, word, word}}; }

struct PlainMemory {
  static ExchangeUnit load(const ExchangeUnit* from) { return *from; }
  static void store(ExchangeUnit* to, const ExchangeUnit& unit) { *to = unit; }
};

// Every order in which the threads of all ranks can take their steps, where a thread has one unit and a rank's next launch begins when all
// its threads are done. An exchange that reads a wrong value, or cannot go on, is reported.
template <int kRanks, int kPhases>
class Model {
 public:
  // units[launch]: threads that take part in it.
  explicit Model(std::vector<std::uint32_t> units) : units_(std::move(units)) {}

  std::string explore() {
    State start;
    start.memory.assign(static_cast<std::size_t>(exchange_slot(1, 0, 0, kRanks, kCapacity, kPhases) * kRanks), filled(kExchangeEmpty));
    pending_.push_back(start);
    while (!pending_.empty() && problem_.empty()) {
      const State state = std::move(pending_.back());
      pending_.pop_back();
      if (seen_.insert(state.key()).second) expand(state);
    }
    return problem_;
  }
  std::size_t num_states() const { return seen_.size(); }

 private:
  static constexpr std::int64_t kCapacity = 2;  // units of the block

  struct Rank {
    ExchangeState state;
    std::uint32_t launch = 0;
    std::uint32_t step[kCapacity] = {};  // of each thread
  };
  struct State {
    std::vector<ExchangeUnit> memory;  // of all ranks
    Rank ranks[kRanks];

    std::vector<std::uint32_t> key() const {
      std::vector<std::uint32_t> words;
      for (const ExchangeUnit& unit : memory) words.push_back(unit.words[0]);
      for (const Rank& rank : ranks) {
        words.push_back(rank.launch);
        words.insert(words.end(), rank.step, rank.step + kCapacity);
      }
      return words;
    }
  };

  static ExchangeUnit message(int rank, std::uint32_t launch, std::uint32_t thread) {
    return filled(1 + static_cast<std::uint32_t>(rank) + 10 * thread + 100 * launch);
  }

  void expand(const State& state) {
    bool any = false, all_done = true;
    for (int rank = 0; rank < kRanks; ++rank) {
      if (state.ranks[rank].launch == units_.size()) continue;
      all_done = false;
      for (std::uint32_t thread = 0; thread < kCapacity; ++thread) {
        State next = state;
        if (!advance(next, rank, thread)) continue;
        any = true;
        pending_.push_back(std::move(next));
      }
    }
    if (!any && !all_done) problem_ = "a rank waits for ever";
  }

  // One step of a thread: a send to one rank, emptying one unit, or receiving. False: it has nothing to do, or must wait.
  bool advance(State& state, int rank, std::uint32_t thread) {
    Rank& self = state.ranks[rank];
    void* stages[kRanks];
    for (int i = 0; i < kRanks; ++i) stages[i] = state.memory.data() + exchange_slot(1, 0, 0, kRanks, kCapacity, kPhases) * i;
    const ExchangeBlock<kRanks, PlainMemory, kPhases> block(stages, rank, 0, kCapacity, self.state);
    const bool takes_part = thread < units_[self.launch];
    const bool empties = thread < block.previous_units();
    std::uint32_t& step = self.step[thread];
    const std::uint32_t last = kRanks + 1;
    if (step == last) return false;
    if (step < kRanks - 1) {
      if (takes_part) block.send(thread, static_cast<int>(step) + 1, message(rank, self.launch, thread));
    } else if (step == kRanks - 1) {
      if (empties) block.empty_previous(thread);
    } else if (takes_part) {
      ExchangeUnit values[kRanks];
      if (!block.receive(thread, message(rank, self.launch, thread), values)) return false;
      for (int sender = 0; sender < kRanks; ++sender) {
        if (values[sender].words[0] != message(sender, self.launch, thread).words[0]) problem_ = "a rank received what was not sent to it";
      }
    }
    ++step;
    for (const std::uint32_t other : self.step) {
      if (other != last) return true;
    }
    self.state = block.next(units_[self.launch]);
    ++self.launch;
    for (std::uint32_t& other : self.step) other = 0;
    return true;
  }

  std::vector<std::uint32_t> units_;
  std::vector<State> pending_;
  std::set<std::vector<std::uint32_t>> seen_;
  std::string problem_;
};

TEST(ExchangeProtocol, NoInterleavingOfTwoRanksLosesOrMixesMessages) {
  for (const std::vector<std::uint32_t>& units : {std::vector<std::uint32_t>{1, 1, 1, 1, 1, 1, 1}, {2, 1, 2, 1, 1, 2}, {2, 2, 2, 2}}) {
    Model<2, 3> model(units);
    EXPECT_EQ(model.explore(), "");
    EXPECT_GT(model.num_states(), 1000U);
  }
}

TEST(ExchangeProtocol, NorOfThreeRanks) {
  Model<3, 3> model({1, 1, 1, 1});
  EXPECT_EQ(model.explore(), "");
}

// What the third phase is for: with two, a fast rank's message is emptied by a slow one.
TEST(ExchangeProtocol, TwoPhasesAreTooFew) {
  Model<2, 2> model({1, 1, 1, 1});
  EXPECT_NE(model.explore(), "");
}

// Words one by one and out of order, as the device may write them.
struct AtomicMemory {
  static ExchangeUnit load(const ExchangeUnit* from) {
    ExchangeUnit unit{};
    for (int i = 0; i < 4; ++i) unit.words[i] = std::atomic_ref(const_cast<std::uint32_t&>(from->words[i])).load(std::memory_order_relaxed);
    return unit;
  }
  static void store(ExchangeUnit* to, const ExchangeUnit& unit) {
    thread_local std::minstd_rand random(std::random_device{}());
    const auto first = random();
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned word = static_cast<unsigned>(first + i) % 4;
      std::atomic_ref(to->words[word]).store(unit.words[word], std::memory_order_relaxed);
      if (random() % 16 == 0) std::this_thread::yield();
    }
  }
};

template <int kRanks>
void run_freely() {
  constexpr std::uint32_t kThreads = 3, kLaunches = 400;
  constexpr std::int64_t kCapacity = 2 * kThreads;
  std::vector<std::vector<ExchangeUnit>> memory(
      kRanks, std::vector<ExchangeUnit>(static_cast<std::size_t>(exchange_slot(1, 0, 0, kRanks, kCapacity)), filled(kExchangeEmpty)));
  void* stages[kRanks];
  for (int rank = 0; rank < kRanks; ++rank) stages[rank] = memory[static_cast<std::size_t>(rank)].data();
  const auto units_of = [](std::uint32_t launch) { return 1 + launch * 7 % static_cast<std::uint32_t>(kCapacity); };
  const auto message = [](int rank, std::uint32_t launch, std::uint32_t unit) {
    std::minstd_rand random(launch * 1000 + unit * 10 + static_cast<std::uint32_t>(rank) + 1);
    ExchangeUnit out{};
    for (std::uint32_t& word : out.words) word = random() % 8 == 0 ? kExchangeEmpty : static_cast<std::uint32_t>(random());
    return out;
  };

  std::atomic<int> num_wrong = 0;
  std::vector<std::thread> threads;
  std::vector<ExchangeState> states(kRanks);
  std::vector<std::unique_ptr<std::barrier<>>> barriers;  // a block's threads between launches
  for (int rank = 0; rank < kRanks; ++rank) barriers.push_back(std::make_unique<std::barrier<>>(kThreads));
  for (int rank = 0; rank < kRanks; ++rank) {
    for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, rank, thread] {
        ExchangeState& state = states[static_cast<std::size_t>(rank)];
        std::barrier<>& barrier = *barriers[static_cast<std::size_t>(rank)];
        for (std::uint32_t launch = 0; launch < kLaunches; ++launch) {
          const ExchangeBlock<kRanks, AtomicMemory> block(stages, rank, 0, kCapacity, state);
          const std::uint32_t units = units_of(launch);
          for (std::uint32_t unit = thread; unit < units; unit += kThreads) block.send(unit, sendable(message(rank, launch, unit)));
          for (std::uint32_t unit = thread; unit < block.previous_units(); unit += kThreads) block.empty_previous(unit);
          for (std::uint32_t unit = thread; unit < units; unit += kThreads) {
            ExchangeUnit values[kRanks];
            while (!block.receive(unit, sendable(message(rank, launch, unit)), values)) std::this_thread::yield();
            for (int sender = 0; sender < kRanks; ++sender) {
              const ExchangeUnit expected = sendable(message(sender, launch, unit));
              for (int i = 0; i < 4; ++i) num_wrong += values[sender].words[i] != expected.words[i];
            }
          }
          barrier.arrive_and_wait();
          if (thread == 0) state = block.next(units);
          barrier.arrive_and_wait();
        }
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST(ExchangeProtocol, ThreadsThatRunFreelyExchangeEverything) {
  run_freely<2>();
  run_freely<4>();
}

TEST(ExchangeProtocol, WhatStandsForEmptyIsSentAsZero) {
  EXPECT_FALSE(has_arrived(filled(kExchangeEmpty)));
  for (int word = 0; word < 4; ++word) {  // a unit with one word missing
    ExchangeUnit unit = filled(7);
    unit.words[word] = kExchangeEmpty;
    EXPECT_FALSE(has_arrived(unit));
    EXPECT_TRUE(has_arrived(sendable(unit)));
    EXPECT_EQ(sendable(unit).words[word], 0U);
  }
  // Half of a word may be -0.
  EXPECT_TRUE(has_arrived(filled(0x80000000U)));
  EXPECT_EQ(sendable(filled(0x00008000U)).words[0], 0x00008000U);
}

}  // namespace
}  // namespace gossamer::cuda
