// bench_products: sparse against dense products of the same shape, paired: every round times the dense product and each sparsity one after
// the other, so that a machine whose bandwidth drifts slows all of them alike. Prints a JSON array; benchmarks/cpu_kernels.py runs it.
//   bench_products [ROUNDS [M K [DTYPE INPUTS]]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/cpu_ops.h"

namespace gossamer::bench {
namespace {

constexpr std::int64_t kMemoryBytes = 256 << 20;  // of copies that are cycled through: eight times a last-level cache of 32 MiB
constexpr double kSparsities[] = {0.5, 0.6, 0.7, 0.8};

struct Kind {
  const char* name;  // of the weights' values
  DType dtype;
  DType inputs;  // what the products take
};
// Inputs of bf16 are 16-bit integers where the weights are i8 or i4.
constexpr Kind kKinds[] = {{"bf16", DType::bf16, DType::bf16}, {"bf16", DType::bf16, DType::f32}, {"f16", DType::f16, DType::f32},
                           {"i8", DType::i8, DType::bf16},     {"i8", DType::i8, DType::f32},     {"i4", DType::i4, DType::bf16},
                           {"i4", DType::i4, DType::f32}};
constexpr std::int64_t kInt4Group = 64;  // columns that share a scale

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double quantile(std::vector<double> values, double share) {
  const auto index = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size()));
  std::nth_element(values.begin(), values.begin() + index, values.end());
  return values[static_cast<std::size_t>(index)];
}
double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

class RandomBits {
 public:
  // 16 random bits, and whether the weight is zero.
  std::pair<std::uint16_t, bool> next(std::uint64_t threshold) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return {static_cast<std::uint16_t>(state_), (state_ >> 48) < threshold};
  }

 private:
  std::uint64_t state_ = 88172645463325252ULL;
};

// A weight in normal-sized 16-bit values, of which a share is zero.
OwnedTensor random_dense(Allocator& allocator, DType dtype, std::int64_t m, std::int64_t k, double sparsity) {
  OwnedTensor dense(allocator, dtype, {m, k});
  const auto threshold = static_cast<std::uint64_t>(sparsity * 65536.0);
  RandomBits random;
  auto* bits = static_cast<std::uint16_t*>(dense.view.raw());
  const std::uint16_t small = dtype == DType::bf16 ? 0x3C00 : 0x2000;  // about 0.008; the random bits vary sign and fraction
  for (std::int64_t i = 0; i < m * k; ++i) {
    const auto [value, zero] = random.next(threshold);
    bits[i] = zero ? std::uint16_t{0} : static_cast<std::uint16_t>(small | (value & 0x807F));
  }
  return dense;
}

// The same in i8 or i4; k is even.
OwnedScaledMatrix random_scaled(Allocator& allocator, DType dtype, std::int64_t m, std::int64_t k, double sparsity) {
  OwnedScaledMatrix dense(allocator, dtype, m, k, dtype == DType::i4 ? kInt4Group : k);
  const auto threshold = static_cast<std::uint64_t>(sparsity * 65536.0);
  RandomBits random;
  auto* bytes = static_cast<std::uint8_t*>(dense.values.data());
  for (std::int64_t i = 0; i < m * k; ++i) {
    const auto [value, zero] = random.next(threshold);
    const int bits = zero ? 0 : (value | 1);
    if (dtype == DType::i8) bytes[i] = static_cast<std::uint8_t>(bits);
    if (dtype == DType::i4) bytes[i / 2] = static_cast<std::uint8_t>(i % 2 == 0 ? bits & 15 : bytes[i / 2] | (bits & 15) << 4);
  }
  std::fill_n(dense.view.scales.data<float>(), dense.view.scales.numel(), 0.01F);
  return dense;
}

// One weight, packed as often as it takes to leave no copy in a cache.
class Product {
 public:
  Product(Ops& ops, const Kind& kind, std::int64_t m, std::int64_t k, double sparsity, std::int64_t bytes) : ops_(ops) {
    if (is_scaled(kind.dtype)) {
      const OwnedScaledMatrix dense = random_scaled(host_, kind.dtype, m, k, sparsity);
      add_copies(dense.view, sparsity > 0 ? sparse_from_scaled(dense.view, host_) : OwnedSparseWeight{}, sparsity, bytes);
    } else {
      const OwnedTensor dense = random_dense(host_, kind.dtype, m, k, sparsity);
      add_copies(dense.view, sparsity > 0 ? sparse_from_dense(dense.view, host_) : OwnedSparseWeight{}, sparsity, bytes);
    }
  }
  std::int64_t nbytes() const { return copies_.front()->nbytes(); }

  // Seconds of one product, over at least `products` of them.
  double time(const Tensor& y, const Tensor& x, std::int64_t products) {
    const double start = seconds_now();
    for (std::int64_t i = 0; i < products; ++i) {
      ops_.linear(y, x, *copies_[next_]);
      next_ = (next_ + 1) % copies_.size();
    }
    return (seconds_now() - start) / static_cast<double>(products);
  }

 private:
  template <typename Dense>
  void add_copies(const Dense& dense, const OwnedSparseWeight& sparse, double sparsity, std::int64_t bytes) {
    do {
      copies_.push_back(sparsity > 0 ? ops_.pack(sparse.view) : ops_.pack(dense));
    } while (static_cast<std::int64_t>(copies_.size()) * nbytes() < bytes);
  }

  Ops& ops_;
  HostAllocator host_;
  std::vector<std::unique_ptr<PackedWeight>> copies_;
  std::size_t next_ = 0;
};

struct Activations {
  Activations(std::int64_t n, std::int64_t m, std::int64_t k) : x(allocator, DType::f32, {n, k}), y(allocator, DType::f32, {n, m}) {
    for (std::int64_t i = 0; i < n * k; ++i) x.view.data<float>()[i] = 0.01F * static_cast<float>(i % 199 - 99);
  }
  HostAllocator allocator;
  OwnedTensor x, y;
};

// Bytes per second that a plain reading loop gets from memory, all threads.
class Reader {
 public:
  explicit Reader(ThreadPool& pool) : pool_(pool), words_(static_cast<std::size_t>(kMemoryBytes) / sizeof(std::uint64_t), 1) {}
  double bytes_per_second() {
    constexpr std::int64_t kChunk = 1 << 16;
    const double start = seconds_now();
    pool_.parallel_for(static_cast<std::int64_t>(words_.size()) / kChunk, 1, [&](std::int64_t begin, std::int64_t end) {
      std::uint64_t sums[8] = {};
      for (std::int64_t i = begin * kChunk; i < end * kChunk; i += 8) {
        __builtin_prefetch(words_.data() + i + 512);
        for (int j = 0; j < 8; ++j) sums[j] += words_[static_cast<std::size_t>(i + j)];
      }
      sink_ = std::accumulate(sums, sums + 8, std::uint64_t{0});
    });
    return static_cast<double>(kMemoryBytes) / (seconds_now() - start);
  }

 private:
  ThreadPool& pool_;
  std::vector<std::uint64_t> words_;
  volatile std::uint64_t sink_ = 0;
};

bool first_row = true;
void print_row(const std::string& fields) {
  std::printf("%s\n {%s}", first_row ? "[" : ",", fields.c_str());
  std::fflush(stdout);
  first_row = false;
}

std::string formatted(const char* format, auto... values) {
  char text[512];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

std::string row_head(const Kind& kind, std::int64_t m, std::int64_t k, std::int64_t n, double sparsity, const char* where) {
  return formatted(R"("m": %ld, "k": %ld, "n": %ld, "sparsity": %.2f, "dtype": "%s", "inputs": "%s", "isa": "%s", "where": "%s", )",
                   static_cast<long>(m), static_cast<long>(k), static_cast<long>(n), sparsity, kind.name,
                   std::string(name_of(kind.inputs)).c_str(), std::string(name_of(best_cpu_isa())).c_str(), where);
}

// Rows of one shape, weights from memory.
void from_memory(const Kind& kind, std::int64_t m, std::int64_t k, const std::vector<std::int64_t>& tokens, int rounds) {
  const std::unique_ptr<Ops> ops = make_cpu_ops({.num_threads = 0, .isa = {}, .product_dtype = kind.inputs});
  ThreadPool pool;
  Reader reader(pool);
  std::vector<std::unique_ptr<Product>> products;
  products.push_back(std::make_unique<Product>(*ops, kind, m, k, 0.0, kMemoryBytes));
  for (const double sparsity : kSparsities) products.push_back(std::make_unique<Product>(*ops, kind, m, k, sparsity, kMemoryBytes));
  for (const std::int64_t n : tokens) {
    const Activations a(n, m, k);
    const std::int64_t repeats = std::max<std::int64_t>(1, (96 << 20) / products.front()->nbytes());
    std::vector<std::vector<double>> times(products.size()), ratios(products.size()), shares(products.size());
    std::vector<double> reads;
    for (int round = -1; round < rounds; ++round) {
      const double read = reader.bytes_per_second();
      std::vector<double> now;
      for (const auto& product : products) now.push_back(product->time(a.y.view, a.x.view, repeats));
      if (round < 0) continue;  // warms up
      reads.push_back(read);
      for (std::size_t i = 0; i < products.size(); ++i) {
        times[i].push_back(now[i]);
        ratios[i].push_back(now.front() / now[i]);
        shares[i].push_back(static_cast<double>(products[i]->nbytes()) / now[i] / read);
      }
    }
    for (std::size_t i = 0; i < products.size(); ++i) {
      const double us = 1e6 * median(times[i]);
      print_row(
          row_head(kind, m, k, n, i == 0 ? 0.0 : kSparsities[i - 1], "memory") +
          formatted(
              R"("us": %.2f, "us_dense": %.2f, "speedup": %.3f, "byte_ratio": %.3f, "gbps": %.2f, "read_gbps": %.2f, "of_read": %.3f, "gweights_s": %.2f)",
              us, 1e6 * median(times.front()), median(ratios[i]),
              static_cast<double>(products.front()->nbytes()) / static_cast<double>(products[i]->nbytes()),
              static_cast<double>(products[i]->nbytes()) / us / 1e3, median(reads) / 1e9, median(shares[i]),
              static_cast<double>(m * k) / us / 1e3));
    }
  }
}

// What the kernels do when every core has its weights in its own cache: one single-threaded Ops per core, all at once. The tenth percentile
// of samples far shorter than a time slice: what else runs on the machine does not show.
void from_cache(const Kind& kind, std::int64_t n, int rounds) {
  constexpr std::int64_t kM = 128, kK = 2048;
  const int cores = available_cores();
  std::vector<double> rates(static_cast<std::size_t>(5), 0.0);
  for (std::size_t s = 0; s < 5; ++s) {
    std::vector<double> seconds(static_cast<std::size_t>(cores));
    std::vector<std::thread> threads;
    for (int core = 0; core < cores; ++core) {
      threads.emplace_back([&, core] {
        const std::unique_ptr<Ops> ops = make_cpu_ops({.num_threads = 1, .isa = {}, .product_dtype = kind.inputs});
        Product product(*ops, kind, kM, kK, s == 0 ? 0.0 : kSparsities[s - 1], 1);
        const Activations a(n, kM, kK);
        std::vector<double> times;
        for (int round = 0; round < 100 * rounds; ++round) times.push_back(product.time(a.y.view, a.x.view, 3));
        seconds[static_cast<std::size_t>(core)] = quantile(std::move(times), 0.1);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const double each : seconds) rates[s] += static_cast<double>(kM * kK) / each / 1e9;
    const double us = static_cast<double>(kM * kK * cores) / rates[s] / 1e3;
    const double us_dense = static_cast<double>(kM * kK * cores) / rates[0] / 1e3;
    print_row(row_head(kind, kM * cores, kK, n, s == 0 ? 0.0 : kSparsities[s - 1], "cache") +
              formatted(R"("us": %.2f, "us_dense": %.2f, "speedup": %.3f, "gweights_s": %.2f)", us, us_dense, us_dense / us, rates[s]));
  }
}

}  // namespace
}  // namespace gossamer::bench

int main(int argc, char** argv) {
  using namespace gossamer::bench;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  if (rounds < 1 || argc == 3 || argc == 5 || argc > 6) {
    std::fprintf(stderr, "usage: bench_products [ROUNDS [M K [DTYPE INPUTS]]]\n");
    return 2;
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes{{4096, 4096},  {6144, 4096},  {8192, 4096},
                                                            {16384, 4096}, {28672, 4096}, {4096, 14336}};
  std::vector<std::pair<std::int64_t, std::int64_t>> scaled_shapes{{4096, 4096}, {16384, 4096}, {4096, 14336}};
  if (argc > 3) shapes = scaled_shapes = {{std::atol(argv[2]), std::atol(argv[3])}};
  for (const Kind& kind : kKinds) {
    if (argc == 6 && (std::string(kind.name) != argv[4] || gossamer::name_of(kind.inputs) != argv[5])) continue;
    for (const std::int64_t n : {1, 8}) from_cache(kind, n, rounds);
    for (const auto& [m, k] : gossamer::is_scaled(kind.dtype) ? scaled_shapes : shapes) from_memory(kind, m, k, {1, 2, 4, 8, 16}, rounds);
  }
  std::printf("\n]\n");
  return 0;
}
