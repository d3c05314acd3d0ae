// The vectorised CPU backend: every verb splits its work over the pool and hands plain structs to the kernels of one instruction set.
#include "cpu/cpu_ops.h"

#include <algorithm>
#include <cstring>

#include "cpu/cpu_attention.h"
#include "cpu/cpu_weight.h"
#include "cpu/dispatch.h"
#include "cpu/sampler.h"
#include "ops/read_rate.h"

namespace gossamer {

namespace {

using cpu::Act;
using cpu::Kernels;
using cpu::kGroup;
using cpu::kStep;

// Waking a thread costs about a microsecond: what takes less is done by the caller alone.
constexpr std::int64_t kMinChunkProducts = 1 << 16;
constexpr std::int64_t kMinChunkElements = 1 << 13;
constexpr std::int64_t kAliasing = 2048;      // rows of 16-bit numbers so far apart share the sets of a first-level cache
constexpr std::int64_t kChunksPerThread = 6;  // dynamic shares even out

static_assert(static_cast<int>(Act::silu) == static_cast<int>(Activation::silu) &&
              static_cast<int>(Act::none) == static_cast<int>(Activation::none));
Act act_of(Activation activation) { return static_cast<Act>(activation); }

// A row of a rank 2 or 3 tensor, counted over both leading axes.
float* row_of(const Tensor& t, std::int64_t i) {
  if (t.rank() == 2) return t.data<float>() + i * t.stride(0);
  return t.data<float>() + i / t.size(1) * t.stride(0) + i % t.size(1) * t.stride(1);
}
std::int64_t num_rows(const Tensor& t) { return t.rank() == 2 ? t.size(0) : t.size(0) * t.size(1); }

class CpuOps final : public Ops {
 public:
  CpuOps(const CpuOptions& options, Allocator* allocator)
      : isa_(options.isa.value_or(best_cpu_isa())),
        product_dtype_(options.product_dtype),
        kernels_(cpu::kernels_for(isa_)),
        pool_(options.num_threads),
        allocator_(allocator != nullptr ? *allocator : own_allocator_),
        samplers_(static_cast<std::size_t>(pool_.size())) {
    require(product_dtype_ == DType::f32 || product_dtype_ == DType::bf16,
            "product_dtype is " + std::string(name_of(product_dtype_)) + "; it must be f32 or bf16");
  }

  Device device() const override { return {}; }
  DType activation_dtype() const override { return DType::f32; }
  Allocator& allocator() override { return allocator_; }
  std::string description() const override {
    return "cpu " + std::string(name_of(isa_)) + ", " + std::to_string(pool_.size()) + (pool_.size() == 1 ? " thread" : " threads") +
           (product_dtype_ == DType::bf16 ? ", bf16 products" : "");
  }
  bool takes(DType values) const override { return is_floating(values) || is_scaled(values); }
  double measure_read_rate() override { return host_read_rate(allocator_, pool_); }
  void synchronize() override {}

 protected:
  std::unique_ptr<PackedWeight> do_pack_dense(const Tensor& dense) override { return cpu::pack_dense(dense, allocator_, pool_); }
  std::unique_ptr<PackedWeight> do_pack_scaled(const ScaledMatrix& dense) override { return cpu::pack_scaled(dense, allocator_, pool_); }
  std::unique_ptr<PackedWeight> do_pack_sparse(const SparseWeight& weight) override { return cpu::pack_bitmap(weight, allocator_, pool_); }

  void do_copy(const Tensor& out, const Tensor& in) override { std::memcpy(out.raw(), in.raw(), static_cast<std::size_t>(in.nbytes())); }

  void do_embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin, bool accumulate) override {
    const std::int64_t size = out.size(1);
    const auto* bytes = static_cast<const std::byte*>(table.raw());
    const std::int64_t row_bytes = table.stride(0) * static_cast<std::int64_t>(size_of(table.dtype()));
    for_rows(out.size(0), size, [&](std::int64_t i) {
      const std::int64_t row = ids.data<const std::int32_t>()[i] - row_begin;
      float* to = out.row<float>(i);
      if (row >= 0 && row < table.size(0)) {
        kernels_.widen(to, bytes + row * row_bytes, table.dtype(), size, accumulate);
      } else if (!accumulate) {
        std::fill_n(to, size, 0.0F);
      }
    });
  }

  void do_rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps) override {
    const float* w = weight.data<const float>();
    const std::int64_t size = weight.size(0);
    for_rows(num_rows(x), size, [&](std::int64_t i) { kernels_.rms_norm(row_of(out, i), row_of(x, i), w, size, eps); });
  }

  void do_layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) override {
    const float* w = weight.data<const float>();
    const float* b = bias.data<const float>();
    const std::int64_t size = weight.size(0);
    for_rows(num_rows(x), size, [&](std::int64_t i) { kernels_.layer_norm(row_of(out, i), row_of(x, i), w, b, size, eps); });
  }

  void do_linear(const Tensor& out, const Tensor& x, const PackedWeight& packed, const Epilogue& epilogue) override {
    const auto* weight = dynamic_cast<const cpu::CpuWeight*>(&packed);
    if (weight == nullptr) {
      throw InvalidArgument("linear: the weight (" + packed.format() + ") was packed by another backend; pack it with these Ops");
    }
    const bool has_residual = epilogue.residual.defined();
    cpu::LinearTask task{.weight = weight->view(),
                         .x = x.data<const float>(),
                         .x_stride = x.stride(0),
                         .n = x.size(0),
                         .out = out.data<float>(),
                         .out_stride = out.stride(0),
                         .bias = epilogue.bias.defined() ? epilogue.bias.data<const float>() : nullptr,
                         .residual = has_residual ? epilogue.residual.data<const float>() : nullptr,
                         .residual_stride = has_residual ? epilogue.residual.stride(0) : 0,
                         .activation = act_of(epilogue.activation)};
    const bool rounds = product_dtype_ == DType::bf16 && task.weight.dtype == DType::bf16;
    const bool native = rounds && kernels_.dot != nullptr;
    const ByteProduct bytes = byte_product(task.weight, x.size(1));
    if (bytes != nullptr) {
      round_to_bytes(task, x);
    } else if (rounds) {
      round_inputs(task, x, native);
    } else if (x.size(1) % kStep != 0) {
      pad_columns(task, x);
    }
    const auto product = bytes != nullptr ? bytes : native ? kernels_.dot : kernels_.linear;
    const std::int64_t groups = (packed.rows() + kGroup - 1) / kGroup;
    const std::int64_t group_products = kGroup * task.weight.steps * kStep * task.n;
    const std::int64_t grain = std::max(kMinChunkProducts / group_products, groups / (kChunksPerThread * pool_.size())) + 1;
    pool_.parallel_for(groups, grain, [&](std::int64_t begin, std::int64_t end) { product(task, begin, end); });
  }

  void do_gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override {
    const std::int64_t size = out.size(1);
    for_rows(out.size(0), 4 * size, [&](std::int64_t i) {
      const float* gate = gate_up.row<const float>(i);
      kernels_.gated(out.row<float>(i), gate, gate + size, size, act_of(activation));
    });
  }

  void do_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                            const Batch& batch) override {
    cpu::check_rope_batch(rope, kv, batch);
    for_rows(batch.num_tokens, (q.size(1) + 2 * k.size(1)) * k.size(2),
             [&](std::int64_t token) { cpu::rope_and_write_token(kernels_, q, k, v, rope, kv, batch, token); });
  }

  void do_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) override {
    cpu::plan_attention(units_, q, kv, batch, params.sliding_window, pool_.size());
    const cpu::AttentionTask task = cpu::attention_task(out, q, kv, params);
    pool_.parallel_for(static_cast<std::int64_t>(units_.size()), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) kernels_.attention(task, units_[static_cast<std::size_t>(i)]);
    });
  }

  void do_gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override {
    const std::int64_t size = out.size(1);
    for_rows(out.size(0), size, [&](std::int64_t i) {
      const std::int64_t row = rows.data<const std::int32_t>()[i];
      check(row >= 0 && row < x.size(0), "gather_rows: a row lies outside x");
      std::copy_n(x.row<const float>(row), size, out.row<float>(i));
    });
  }

  void do_add(const Tensor& x, const Tensor& y) override {
    for_rows(x.size(0), x.size(1), [&](std::int64_t i) { kernels_.add(x.row<float>(i), y.row<const float>(i), x.size(1)); });
  }

  void do_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result) override {
    const std::int64_t rows = logits.size(0);
    const std::int64_t grain = (rows + pool_.size() - 1) / pool_.size();
    pool_.parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
      samplers_[static_cast<std::size_t>(begin / grain)].sample(logits, batch, result, begin, end);
    });
  }

 private:
  // body(i) for every row, by the pool when there is enough to do.
  template <typename Body>
  void for_rows(std::int64_t rows, std::int64_t row_elements, const Body& body) {
    pool_.parallel_for(rows, kMinChunkElements / row_elements + 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) body(i);
    });
  }

  // Kernels read whole steps of columns: where k is no multiple, x is copied with zeros behind it.
  void pad_columns(cpu::LinearTask& task, const Tensor& x) {
    const std::int64_t k = x.size(1);
    const std::int64_t padded = task.weight.steps * kStep;
    auto* rows = workspace<float>(task.n * padded);
    for_rows(task.n, padded, [&](std::int64_t i) {
      std::copy_n(x.row<const float>(i), k, rows + i * padded);
      std::fill_n(rows + i * padded + k, padded - k, 0.0F);
    });
    task.x = rows;
    task.x_stride = padded;
  }

  // x rounded to bf16 and padded; kept as bf16 for the native dot product, as float without one.
  void round_inputs(cpu::LinearTask& task, const Tensor& x, bool native) {
    const std::int64_t k = x.size(1);
    const std::int64_t padded = task.weight.steps * kStep;
    const std::int64_t stride = padded % kAliasing == 0 ? padded + kAliasing / 2 : padded;
    auto* floats = native ? nullptr : workspace<float>(task.n * (padded + (stride + 1) / 2));
    auto* halves = native ? workspace<BFloat16>(task.n * stride) : reinterpret_cast<BFloat16*>(floats + task.n * padded);
    for_rows(task.n, padded, [&](std::int64_t i) {
      BFloat16* row = halves + i * stride;
      kernels_.narrow(row, DType::bf16, x.row<const float>(i), k);
      std::fill_n(row + k, padded - k, BFloat16{0});
      if (!native) kernels_.widen(floats + i * padded, row, DType::bf16, padded, false);
    });
    task.x = native ? static_cast<const void*>(halves) : floats;
    task.x_stride = native ? stride : padded;
  }

  using ByteProduct = void (*)(const cpu::LinearTask&, std::int64_t, std::int64_t);

  // With 16-bit inputs: the product of i8 or i4 weights with integers. Null where it is not to be had.
  ByteProduct byte_product(const cpu::WeightView& weight, std::int64_t k) const {
    if (product_dtype_ != DType::bf16) return nullptr;
    if (weight.dtype == DType::i8 && k <= cpu::kMaxDot8K) return kernels_.dot8;
    if (weight.dtype == DType::i4 && cpu::kMaxDot4Steps % weight.scale_steps == 0) return kernels_.dot4;
    return nullptr;
  }

  // x rounded to 16-bit integers, one scale a token, as the byte dot products take it.
  void round_to_bytes(cpu::LinearTask& task, const Tensor& x) {
    const bool centered = task.weight.dtype == DType::i4;
    const std::int64_t stride = task.weight.steps * kStep;
    const std::int64_t scales = (task.n + kStep - 1) / kStep * kStep;
    const std::int64_t sums = centered ? task.n * task.weight.steps * 8 : 0;
    auto* x_scales = workspace<float>(scales + sums + task.n * stride / 2);
    auto* x_sums = reinterpret_cast<std::int32_t*>(x_scales + scales);
    auto* low = reinterpret_cast<std::uint8_t*>(x_sums + sums);
    std::uint8_t* high = low + task.n * stride;
    const float limit = centered ? cpu::kLimitDot4 : cpu::kLimitDot8;
    for_rows(task.n, stride, [&](std::int64_t i) {
      std::uint8_t* l = low + i * stride;
      std::uint8_t* h = high + i * stride;
      x_scales[i] = kernels_.round_to_bytes(l, h, x.row<const float>(i), x.size(1), stride, limit);
      if (centered) kernels_.center_bytes(l, h, x_sums + i * task.weight.steps * 8, stride);
    });
    task.x = low;
    task.x_high = high;
    task.x_stride = stride;
    task.x_scales = x_scales;
    task.x_sums = x_sums;
  }

  // Grown to the largest batch seen, then kept.
  template <typename T>
  T* workspace(std::int64_t elements) {
    const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(T);
    if (workspace_.bytes() < bytes) workspace_ = Buffer(allocator_, bytes);
    return static_cast<T*>(workspace_.data());
  }

  CpuIsa isa_;
  DType product_dtype_;
  const Kernels& kernels_;
  ThreadPool pool_;
  HostAllocator own_allocator_;
  Allocator& allocator_;
  std::vector<Sampler> samplers_;  // one per chunk of rows
  std::vector<cpu::AttentionUnit> units_;
  Buffer workspace_;  // padded or rounded activations
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options, Allocator* allocator) { return std::make_unique<CpuOps>(options, allocator); }

}  // namespace gossamer
