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

// Fragments as in PTX's "register fragments for wgmma", b as core matrices of 8 tokens x 16 bytes. In bytes of k these are the same for
// halves and for bytes: register i holds bytes 4 (lane % 4) .. of half i / 2.
Block::Bytes Block::operands_of(const Product& p) {
  const Descriptor b(p.descriptor);
  Bytes bytes{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      for (unsigned j = 0; j < 4; ++j) {
        bytes.a[lane / 4 + 8 * (i % 2)][16 * (i / 2) + 4 * (lane % 4) + j] = static_cast<std::uint8_t>(p.a[lane][i] >> (8 * j));
      }
    }
  }
  bytes.b.resize(static_cast<std::size_t>(8 * p.n_tiles));
  for (std::uint32_t n = 0; n < bytes.b.size(); ++n) {
    for (std::uint32_t half = 0; half < 2; ++half) {
      const std::uint32_t address = b.start + half * b.k_stride + n / 8 * b.n_stride + n % 8 * 16;
      if (is_being_copied(address, 16)) fail("a product reads where a copy is on its way");
      std::memcpy(bytes.b[n].data() + 16 * half, access(address, 16, "a product's read"), 16);
    }
  }
  return bytes;
}

namespace {

// The sum of terms as Hopper has it for e4m3: aligned to the largest of them, with 13 bits behind its first.
float truncated_sum(const std::array<float, 33>& terms) {
  float largest = 0;
  for (const float t : terms) {
    if (!std::isfinite(t)) return std::accumulate(terms.begin(), terms.end(), 0.0F);
    largest = std::max(largest, std::abs(t));
  }
  if (largest == 0) return 0;
  const float unit = std::ldexp(1.0F, std::ilogb(largest) - 13);
  double sum = 0;
  for (const float t : terms) sum += std::trunc(t / unit) * unit;
  return static_cast<float>(sum);
}

template <class Sum>
Sum product_of(const std::uint8_t* a, const std::uint8_t* b, Operands operands, Sum before) {
  if constexpr (std::is_same_v<Sum, std::int32_t>) {
    for (int k = 0; k < 32; ++k) before += static_cast<std::int8_t>(a[k]) * static_cast<std::int8_t>(b[k]);
    return before;
  } else if (operands == Operands::e4m3) {
    std::array<float, 33> terms;
    terms[32] = before;
    for (std::size_t k = 0; k < 32; ++k) terms[k] = to_float(Float8E4M3{a[k]}) * to_float(Float8E4M3{b[k]});
    return truncated_sum(terms);
  } else {
    const auto value = [operands](const std::uint8_t* bytes, int k) {
      return value_of(static_cast<std::uint16_t>(bytes[2 * k] | bytes[2 * k + 1] << 8), operands == Operands::bf16);
    };
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += value(a, k) * value(b, k);
    return before + sum;
  }
}

}  // namespace

// One warp's 16 rows.
void Block::execute(Warp& w) {
  const Product p = w.products.front();
  w.products.pop_front();
  ++w.executed;
  const Bytes bytes = operands_of(p);
  const auto multiply = [&]<class Sum>(Sum /*type*/) {
    for (std::size_t n = 0; n < bytes.b.size(); ++n) {
      for (std::size_t row = 0; row < 16; ++row) {
        Sum& sum = static_cast<Sum(*)[4]>(p.d[row % 8 * 4 + n % 8 / 2])[n / 8][n % 2 + row / 8 * 2];
        sum = product_of<Sum>(bytes.a[row], bytes.b[n].data(), p.operands, p.keeps ? sum : Sum{});
      }
    }
  };
  p.operands == Operands::i8 ? multiply(std::int32_t{}) : multiply(0.0F);
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
