#include "block.h"

namespace gossamer {

alignas(128) std::uint8_t shared[kSharedBytes];

namespace emulator {

Block* block = nullptr;

namespace {

void enter_thread() { block->enter(); }

// Apart, since compilers distrust the variables of a function that calls getcontext, which might return twice.
[[gnu::noinline]] void prepare(Thread& t) {
  getcontext(&t.context);
  t.context.uc_stack.ss_sp = t.stack.get();
  t.context.uc_stack.ss_size = kStackBytes;
  t.context.uc_link = nullptr;
  makecontext(&t.context, enter_thread, 0);
}

}  // namespace

// m64nNk16, one warp's 16 rows: fragments as in PTX's "register fragments for wgmma", b as core matrices of 8 tokens x 8 values.
void Block::execute(Warp& w) {
  const Product p = w.products.front();
  w.products.pop_front();
  ++w.executed;
  const Descriptor b(p.descriptor);
  float a[16][16];
  for (int lane = 0; lane < 32; ++lane) {
    for (int e = 0; e < 8; ++e) {
      const auto bits = static_cast<std::uint16_t>(p.a[lane][e / 2] >> (16 * (e % 2)));
      a[lane / 4 + 8 * (e / 2 % 2)][2 * (lane % 4) + e % 2 + 8 * (e / 4)] = value_of(bits, p.is_bf16);
    }
  }
  for (int n = 0; n < 8 * p.n_tiles; ++n) {
    float column[16];
    for (int k = 0; k < 16; ++k) {
      const std::uint32_t address = b.start + static_cast<std::uint32_t>(k / 8) * b.k_stride +
                                    static_cast<std::uint32_t>(n / 8) * b.n_stride + static_cast<std::uint32_t>(n % 8 * 16 + k % 8 * 2);
      std::uint16_t bits;
      if (is_being_copied(address, 2)) fail("a product reads where a copy is on its way");
      std::memcpy(&bits, access(address, 2, "a product's read"), 2);
      column[k] = value_of(bits, p.is_bf16);
    }
    for (int row = 0; row < 16; ++row) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[row][k] * column[k];
      p.d[row % 8 * 4 + n % 8 / 2][n / 8][n % 2 + row / 8 * 2] += sum;
    }
  }
}

void Block::run() {
  block = this;
  alive_ = static_cast<unsigned>(threads_.size());
  std::vector<unsigned> ready(alive_), waiting;
  std::iota(ready.begin(), ready.end(), 0U);
  for (Thread& t : threads_) prepare(t);
  while (alive_ != 0) {
    if (random_() % 64 == 0) land_a_copy();
    if (random_() % 64 == 0) execute_early();
    if (ready.empty()) {
      for (std::size_t i = 0; i < waiting.size();) {
        const Thread& t = threads_[waiting[i]];
        if (!t.is_ready(t.condition)) {
          ++i;
          continue;
        }
        ready.push_back(waiting[i]);
        waiting[i] = waiting.back();
        waiting.pop_back();
      }
      if (ready.empty() && !land_a_copy()) fail("deadlock: " + std::to_string(alive_) + " threads wait, nothing is on its way");
      continue;
    }
    const std::size_t i = random_() % ready.size();
    thread_ = ready[i];
    ready[i] = ready.back();
    ready.pop_back();
    threadIdx.x = thread_;
    const unsigned alive_before = alive_;
    swapcontext(&scheduler_, &threads_[thread_].context);
    if (error_) std::rethrow_exception(error_);
    if (alive_ == alive_before) waiting.push_back(thread_);
  }
  if (!copies_.empty()) fail("the block ended with copies on their way");
}

}  // namespace emulator
}  // namespace gossamer
