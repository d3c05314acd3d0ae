// One block on the emulator: its fibers and their scheduler, barriers, copies on their way, products not done yet. emulator.h says what it
// is for.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulator.h"

namespace gossamer {

extern std::uint8_t shared[];
inline constexpr std::size_t kSharedBytes = 232448;

namespace emulator {

inline constexpr std::size_t kStackBytes = 96 << 10;

struct Thread {
  ucontext_t context;
  std::unique_ptr<std::uint8_t[]> stack = std::make_unique_for_overwrite<std::uint8_t[]>(kStackBytes);
  bool (*is_ready)(void*) = nullptr;  // of what it waits for
  void* condition = nullptr;
  std::uint64_t groups = 0;  // of asynchronous copies, committed
};

struct Barrier {  // mbarrier
  std::uint32_t arrivals = 0, pending = 0;
  std::int64_t bytes = 0;  // announced, not there yet
  std::uint64_t phases = 0;
};

struct Copy {
  std::uint32_t to, bytes, barrier;
  const std::uint8_t* from;
};

struct Product {
  void* d[32];
  const std::uint32_t* a[32];
  std::uint64_t descriptor;
  int n_tiles;
  Operands operands;
  bool keeps;
  std::uint64_t group;
};

struct AsyncCopy {
  std::uint32_t to;
  const std::uint8_t* from;
  unsigned thread;
  std::uint64_t group;  // of that thread
};

struct WarpProduct {  // of mma.sync: what each lane brought
  float* c[32];
  std::uint32_t a[32][4], b[32][4], metadata[32];
};

struct Warp {
  std::array<std::uint32_t, 32> offered{}, shown{};
  unsigned arrived = 0;
  unsigned registers = 0;  // of a thread
  std::uint64_t generation = 0;
  Collective kind{};
  int operand = 0;
  Product collected{};
  WarpProduct product{};
  std::deque<Product> products;  // not executed
  std::vector<std::uint64_t> descriptors;
  std::uint64_t executed = 0, groups = 0;
  std::uint64_t issued() const { return descriptors.size(); }
};

struct NamedBarrier {
  unsigned arrived = 0;
  std::uint64_t generation = 0;
};

struct Descriptor {
  std::uint32_t start, k_stride, n_stride;
  explicit Descriptor(std::uint64_t bits)
      : start((bits & 0x3fffU) << 4), k_stride((bits >> 16 & 0x3fffU) << 4), n_stride((bits >> 32 & 0x3fffU) << 4) {}
  std::uint32_t end(int n_tiles) const { return start + k_stride + static_cast<std::uint32_t>(n_tiles - 1) * n_stride + 128; }
};

inline float value_of(std::uint16_t bits, bool is_bf16) { return is_bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits}); }

class Block {
 public:
  Block(unsigned threads, std::uint32_t shared_bytes, std::uint64_t seed, const std::function<void()>& kernel)
      : shared_bytes_(shared_bytes), kernel_(kernel), random_(seed), threads_(threads), warps_((threads + 31) / 32) {
    std::memset(shared, 0xcd, kSharedBytes);
    for (Warp& w : warps_) w.registers = std::min(255U, 65536 / threads) / 8 * 8;
  }

  void run();
  void enter() {
    try {
      kernel_();
    } catch (...) {
      error_ = std::current_exception();
    }
    --alive_;
    setcontext(&scheduler_);
  }
  template <class Condition>
  void wait_until(Condition condition) {
    while (!condition()) {
      Thread& t = threads_[thread_];
      t.is_ready = [](void* p) { return (*static_cast<Condition*>(p))(); };
      t.condition = &condition;
      swapcontext(&t.context, &scheduler_);
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(thread_) + ": " + what);
  }

  unsigned size() const { return static_cast<unsigned>(threads_.size()); }
  Warp& warp() { return warps_[thread_ / 32]; }
  unsigned lane() const { return thread_ % 32; }

  // All lanes of the warp come here; the last one acts.
  template <class Act>
  void meet(const Act& act) {
    Warp& w = warp();
    const std::uint64_t generation = w.generation;
    if (++w.arrived == std::min<unsigned>(32, static_cast<unsigned>(threads_.size()))) {
      w.arrived = 0;
      act(w);
      ++w.generation;
    }
    wait_until([&w, generation] { return w.generation > generation; });
  }
  std::uint32_t collective(Collective kind, std::uint32_t value, int operand) {
    Warp& w = warp();
    if (w.arrived != 0 && (w.kind != kind || (kind == Collective::scan && w.operand != operand)))
      fail("lanes of a warp meet in different instructions");
    w.kind = kind;
    w.operand = operand;
    w.offered[lane()] = value;
    meet([](Warp& all) { all.shown = all.offered; });
    const std::uint32_t from = static_cast<std::uint32_t>(operand);
    switch (kind) {
      case Collective::sync: return 0;
      case Collective::shuffle: return w.shown[from];
      case Collective::scan: return value + (lane() >= from ? w.shown[lane() - from] : 0);
      case Collective::sum: return std::accumulate(w.shown.begin(), w.shown.end(), std::uint32_t{0});
    }
    return 0;
  }
  void change_registers(unsigned count, bool is_increase) {
    Warp& w = warp();
    if (is_increase ? count < w.registers : count > w.registers) fail("setmaxnreg the wrong way");
    meet([](Warp&) {});
    if (lane() == 0) {
      wait_until([&] { return spare_registers_ + w.registers >= count; });
      spare_registers_ += w.registers - count;
      w.registers = count;
    }
    meet([](Warp&) {});
  }
  void block_barrier(int id, unsigned count) {
    NamedBarrier& b = named_[static_cast<std::size_t>(id)];
    const std::uint64_t generation = b.generation;
    if (++b.arrived == count) {
      b.arrived = 0;
      ++b.generation;
    }
    wait_until([&b, generation] { return b.generation > generation; });
  }

  std::uint8_t* access(std::uint32_t address, std::uint32_t bytes, const char* what) {
    if (address % bytes != 0) fail(std::string(what) + " at a misaligned address");
    if (address + bytes > shared_bytes_) fail(std::string(what) + " beyond shared memory");
    return shared + address;
  }
  bool is_being_copied(std::uint32_t address, std::uint32_t bytes) const {
    const auto meets = [=](std::uint32_t to, std::uint32_t size) { return address < to + size && to < address + bytes; };
    return std::any_of(copies_.begin(), copies_.end(), [&](const Copy& c) { return meets(c.to, c.bytes); }) ||
           std::any_of(async_copies_.begin(), async_copies_.end(), [&](const AsyncCopy& c) { return meets(c.to, 16); });
  }
  Barrier& barrier(std::uint32_t address) {
    if (address % 8 != 0 || address / 8 >= barriers_.size() || barriers_[address / 8].arrivals == 0)
      fail("no barrier was initialised there");
    return barriers_[address / 8];
  }
  void barrier_init(std::uint32_t address, std::uint32_t arrivals) {
    if (address / 8 >= barriers_.size()) barriers_.resize(address / 8 + 1);
    barriers_[address / 8] = {arrivals, arrivals, 0, 0};
  }
  void barrier_arrive(Barrier& b, std::uint32_t expected_bytes) {
    if (b.pending == 0) fail("more arrivals at a barrier than its phase has");
    b.bytes += expected_bytes;
    --b.pending;
    end_phase(b);
  }
  static void end_phase(Barrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    b.pending = b.arrivals;
    ++b.phases;
  }
  void bulk_copy(const Copy& copy) {
    if (copy.to % 16 != 0 || copy.bytes % 16 != 0 || reinterpret_cast<std::uintptr_t>(copy.from) % 16 != 0) fail("a misaligned bulk copy");
    if (copy.to + copy.bytes > shared_bytes_) fail("a copy beyond shared memory");
    for (const Warp& w : warps_) {
      for (const Product& p : w.products) {
        const Descriptor b(p.descriptor);
        if (copy.to < b.end(p.n_tiles) && b.start < copy.to + copy.bytes) fail("a copy over what a product still reads");
      }
    }
    copies_.push_back(copy);
  }

  void copy_async_16(std::uint32_t to, const void* from) {
    if (to % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) fail("a misaligned asynchronous copy");
    if (to + 16 > shared_bytes_) fail("a copy beyond shared memory");
    async_copies_.push_back({to, static_cast<const std::uint8_t*>(from), thread_, threads_[thread_].groups});
  }
  void copy_async_commit() { ++threads_[thread_].groups; }
  void copy_async_wait(int pending) {
    const std::uint64_t groups = threads_[thread_].groups, done = groups - std::min(groups, static_cast<std::uint64_t>(pending));
    std::erase_if(async_copies_, [&](const AsyncCopy& c) {
      const bool lands = c.thread == thread_ && c.group < done;
      if (lands) std::memcpy(shared + c.to, c.from, 16);
      return lands;
    });
  }

  // columns: of A, 16 or 32; a(lane operands, row, column) is the element there.
  template <class Element>
  void mma(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[4], std::uint32_t metadata, int columns, bool is_bf16,
           const Element& element) {
    Warp& w = warp();
    w.product.c[lane()] = c;
    std::copy_n(a, 4, w.product.a[lane()]);
    std::copy_n(b, 4, w.product.b[lane()]);
    w.product.metadata[lane()] = metadata;
    meet([&](Warp& all) {
      const WarpProduct& p = all.product;
      for (int row = 0; row < 16; ++row) {
        for (int n = 0; n < 8; ++n) {
          float sum = 0;
          for (int k = 0; k < columns; ++k) {  // register i of lane 4n + q: k = 8i + 2q, + 1
            const auto b_bits = static_cast<std::uint16_t>(p.b[4 * n + k % 8 / 2][k / 8] >> (16 * (k % 2)));
            sum += value_of(element(p, row, k), is_bf16) * value_of(b_bits, is_bf16);
          }
          p.c[row % 8 * 4 + n / 2][n % 2 + row / 8 * 2] += sum;
        }
      }
    });
  }

  void wgmma(void* d, const std::uint32_t (&a)[4], std::uint64_t b, int n_tiles, Operands operands, bool keeps) {
    Warp& w = warp();
    w.collected.d[lane()] = d;
    w.collected.a[lane()] = a;
    if (b >> 46 != 0) fail("a descriptor with fields that the emulator does not know");
    meet([&](Warp& all) {
      all.collected.descriptor = b;
      all.collected.n_tiles = n_tiles;
      all.collected.operands = operands;
      all.collected.keeps = keeps;
      all.collected.group = all.groups;
      all.products.push_back(all.collected);
      all.descriptors.push_back(b);
      const std::size_t first = thread_ / 128 * 4;
      for (std::size_t i = first; i < first + 4; ++i) {
        if (warps_[i].issued() >= all.issued() && warps_[i].descriptors[all.issued() - 1] != b)
          fail("warps of a warpgroup disagree about b");
      }
    });
  }
  void wgmma_wait(int pending) {
    Warp& w = warp();
    const unsigned index = thread_ / 32;
    meet([](Warp&) {});
    const std::uint64_t groups = w.groups < static_cast<std::uint64_t>(pending) ? 0 : w.groups - static_cast<std::uint64_t>(pending);
    while (!w.products.empty() && w.products.front().group < groups) {
      wait_until([&] { return w.products.empty() || w.products.front().group >= groups || may_execute(index); });
      if (!w.products.empty() && w.products.front().group < groups) execute(w);
    }
  }

 private:
  bool may_execute(std::size_t index) const {  // the other warps of the warpgroup have come as far
    const std::size_t first = index / 4 * 4;
    for (std::size_t i = first; i < first + 4; ++i) {
      if (warps_[i].issued() <= warps_[index].executed) return false;
    }
    return true;
  }
  void execute(Warp& w);
  // 32 bytes of k: of each of the warp's 16 rows, and of each token.
  struct Bytes {
    std::uint8_t a[16][32];
    std::vector<std::array<std::uint8_t, 32>> b;
  };
  Bytes operands_of(const Product& p);
  bool land_a_copy() {
    if (copies_.empty()) return false;
    const std::size_t i = random_() % copies_.size();
    const Copy c = copies_[i];
    copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(i));
    std::memcpy(shared + c.to, c.from, c.bytes);
    Barrier& b = barrier(c.barrier);
    b.bytes -= c.bytes;
    end_phase(b);
    return true;
  }
  void execute_early() {
    const std::size_t i = random_() % warps_.size();
    if (i / 4 * 4 + 4 <= warps_.size() && !warps_[i].products.empty() && may_execute(i)) execute(warps_[i]);
  }

  std::uint32_t shared_bytes_;
  const std::function<void()>& kernel_;
  std::minstd_rand random_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Barrier> barriers_;
  std::array<NamedBarrier, 16> named_;
  std::vector<Copy> copies_;
  std::vector<AsyncCopy> async_copies_;
  ucontext_t scheduler_;
  unsigned thread_ = 0, alive_ = 0;
  unsigned spare_registers_ = 0;  // that warps gave back, a thread
  std::exception_ptr error_;
};

extern Block* block;  // the one that runs

}  // namespace emulator
}  // namespace gossamer
