// bench_cpu: single products in cache and from memory, and whole steps of a SmolLM2-135M-shaped model (decode and prefill tokens/s).
#include <benchmark/benchmark.h>

#include <string>

#include "cpu_model.h"

namespace gossamer::bench {
namespace {

const char* name_of_sparsity(double sparsity) {
  return sparsity < 0 ? "dense" : sparsity < 0.45 ? "s40" : sparsity < 0.55 ? "s50" : sparsity < 0.65 ? "s60" : "s70";
}

// One product [m, k] x n. `copies` weights are cycled through, so that enough of them do not stay in a cache.
void linear(benchmark::State& state, CpuOptions options, DType dtype, double sparsity, std::int64_t m, std::int64_t k, std::int64_t n,
            int copies) {
  const std::unique_ptr<Ops> ops = make_cpu_ops(options);
  std::vector<std::unique_ptr<PackedWeight>> weights;
  for (int i = 0; i < copies; ++i) weights.push_back(random_weight(*ops, m, k, dtype, sparsity, 1 + static_cast<std::uint32_t>(i)));
  HostAllocator allocator;
  OwnedTensor x(allocator, DType::f32, {n, k});
  OwnedTensor y(allocator, DType::f32, {n, m});
  std::fill_n(x.view.data<float>(), n * k, 0.5F);
  std::size_t next = 0;
  for (auto _ : state) {
    ops->linear(y.view, x.view, *weights[next]);
    next = (next + 1) % weights.size();
  }
  const auto rate = [](double amount) {
    return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  };
  state.counters["weight_bytes/s"] = rate(static_cast<double>(weights[0]->nbytes()));
  state.counters["weights/s"] = rate(static_cast<double>(m * k));
  state.counters["flop/s"] = rate(2.0 * static_cast<double>(m * k * n));
}

void step(benchmark::State& state, CpuOptions options, DType dtype, double sparsity, std::int64_t num_seqs, std::int64_t query_len,
          std::int64_t context) {
  const std::unique_ptr<Ops> ops = make_cpu_ops(options);
  StepBench bench(*ops, kSmolLm2, dtype, sparsity, num_seqs, query_len, context);
  bench.run();
  bench.attention_seconds = bench.linear_seconds = bench.head_seconds = bench.other_seconds = 0;
  for (auto _ : state) bench.run();
  const auto per_step = [&](double seconds) { return benchmark::Counter(1e3 * seconds, benchmark::Counter::kAvgIterations); };
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(num_seqs * query_len), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["linear_ms"] = per_step(bench.linear_seconds);
  state.counters["attention_ms"] = per_step(bench.attention_seconds);
  state.counters["head_ms"] = per_step(bench.head_seconds);
  state.counters["other_ms"] = per_step(bench.other_seconds);
  state.counters["weights_MB"] = static_cast<double>(bench.weight_bytes()) / 1e6;
}

std::string joined(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text.append(part);
  return text;
}

void register_kind(CpuOptions options, DType dtype, double sparsity) {
  const bool alone = options.num_threads == 1;
  const std::string kind =
      joined({gossamer::name_of(dtype), "/", name_of_sparsity(sparsity), "/", gossamer::name_of(*options.isa), alone ? "/1thread" : ""});
  // One thread is judged by its own CPU time, which other programs do not change; all of them by the clock.
  const auto add = [&](std::string name, auto run) {
    benchmark::internal::Benchmark* bench = benchmark::RegisterBenchmark(name.c_str(), run);
    if (!alone) bench->UseRealTime();
    return bench;
  };
  for (const std::int64_t n : {1, 2, 3, 8, 512}) {
    const std::string tokens = joined({"/n", std::to_string(n), "/"});
    add(joined({"linear_cached/1536x576", tokens, kind}),
        [=](benchmark::State& s) { linear(s, options, dtype, sparsity, 1536, 576, n, 1); });
    if (n > 8) continue;
    add(joined({"linear_memory/4096x4096", tokens, kind}),
        [=](benchmark::State& s) { linear(s, options, dtype, sparsity, 4096, 4096, n, 8); });
  }
  const auto add_step = [&](const char* name, std::int64_t seqs, std::int64_t query, std::int64_t context) {
    add(joined({name, kind}), [=](benchmark::State& s) {
      step(s, options, dtype, sparsity, seqs, query, context);
    })->Unit(benchmark::kMillisecond);
  };
  add_step("smollm2_decode/batch1/context128/", 1, 1, 128);
  add_step("smollm2_decode/batch8/context128/", 8, 1, 128);
  add_step("smollm2_prefill/512/", 1, 512, 512);
}

void register_all() {
  for (const CpuIsa isa : available_cpu_isas()) {
    for (const double sparsity : {-1.0, 0.5, 0.6, 0.7}) {
      for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
        for (const int threads : {0, 1}) register_kind({.num_threads = threads, .isa = isa}, dtype, sparsity);
      }
    }
  }
}

}  // namespace
}  // namespace gossamer::bench

int main(int argc, char** argv) {
  gossamer::bench::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
