// The reference backend: plain loops that read like the formulas, float32 storage, sums in double. Every other backend is tested against
// it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

#include "cpu/cpu_ops.h"
#include "cpu/reference_attention.h"
#include "cpu/reference_weight.h"
#include "cpu/sampler.h"

namespace gossamer {
namespace {

double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return std::max(x, 0.0);
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1 + std::exp(-x));
  }
  return x;
}

// Calls f(out_row, x_row) for every vector along the last axis; rank 2 or 3.
template <typename F>
void for_each_row(const Tensor& out, const Tensor& x, const F& f) {
  if (x.rank() == 2) {
    for (std::int64_t i = 0; i < x.size(0); ++i) f(out.row<float>(i), x.row<const float>(i));
  } else {
    for (std::int64_t i = 0; i < x.size(0); ++i) for_each_row(out.select(0, i), x.select(0, i), f);
  }
}

class ReferenceOps final : public Ops {
 public:
  explicit ReferenceOps(Allocator* allocator) : allocator_(allocator != nullptr ? *allocator : own_allocator_) {}

  Device device() const override { return {}; }
  DType activation_dtype() const override { return DType::f32; }
  Allocator& allocator() override { return allocator_; }
  std::string description() const override { return "cpu reference"; }
  bool takes(DType values) const override { return is_floating(values) || is_scaled(values); }
  void synchronize() override {}

 protected:
  std::unique_ptr<PackedWeight> do_pack_dense(const Tensor& dense) override { return make_reference_weight(dense, allocator_); }
  std::unique_ptr<PackedWeight> do_pack_scaled(const ScaledMatrix& dense) override { return make_reference_weight(dense, allocator_); }
  std::unique_ptr<PackedWeight> do_pack_sparse(const SparseWeight& weight) override { return make_reference_weight(weight, allocator_); }

  void do_copy(const Tensor& out, const Tensor& in) override { std::memcpy(out.raw(), in.raw(), static_cast<std::size_t>(in.nbytes())); }

  void do_embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin, bool accumulate) override {
    visit_floating(table.dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (std::int64_t i = 0; i < out.size(0); ++i) {
        const std::int64_t row = ids.data<const std::int32_t>()[i] - row_begin;
        const bool ours = row >= 0 && row < table.size(0);
        for (std::int64_t j = 0; j < out.size(1); ++j) {
          const float before = accumulate ? out.row<float>(i)[j] : 0.0F;
          out.row<float>(i)[j] = before + (ours ? to_float(table.row<const T>(row)[j]) : 0.0F);
        }
      }
    });
  }

  void do_rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps) override {
    const std::int64_t size = weight.size(0);
    const float* w = weight.data<const float>();
    for_each_row(out, x, [&](float* y, const float* v) {
      double squares = 0;
      for (std::int64_t i = 0; i < size; ++i) squares += double{v[i]} * v[i];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(size) + eps);
      for (std::int64_t i = 0; i < size; ++i) y[i] = static_cast<float>(v[i] * scale * w[i]);
    });
  }

  void do_layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) override {
    const std::int64_t size = weight.size(0);
    const float* w = weight.data<const float>();
    const float* b = bias.data<const float>();
    for_each_row(out, x, [&](float* y, const float* v) {
      double mean = 0;
      for (std::int64_t i = 0; i < size; ++i) mean += v[i];
      mean /= static_cast<double>(size);
      double variance = 0;
      for (std::int64_t i = 0; i < size; ++i) variance += (v[i] - mean) * (v[i] - mean);
      const double scale = 1 / std::sqrt(variance / static_cast<double>(size) + eps);
      for (std::int64_t i = 0; i < size; ++i) y[i] = static_cast<float>((v[i] - mean) * scale * w[i] + b[i]);
    });
  }

  void do_linear(const Tensor& out, const Tensor& x, const PackedWeight& packed, const Epilogue& epilogue) override {
    const auto* weight = dynamic_cast<const ReferenceWeight*>(&packed);
    require(weight != nullptr, "linear: the weight (" + packed.format() + ") was packed by another backend; pack it with these Ops");
    std::vector<float> w(static_cast<std::size_t>(packed.cols()));
    for (std::int64_t j = 0; j < packed.rows(); ++j) {
      weight->expand_row(j, w);
      const double bias = epilogue.bias.defined() ? epilogue.bias.data<const float>()[j] : 0.0F;
      for (std::int64_t i = 0; i < x.size(0); ++i) {
        double sum = 0;
        for (std::size_t p = 0; p < w.size(); ++p) sum += double{x.row<const float>(i)[p]} * w[p];
        const double residual = epilogue.residual.defined() ? epilogue.residual.row<const float>(i)[j] : 0.0F;
        out.row<float>(i)[j] = static_cast<float>(activate(sum + bias, epilogue.activation) + residual);
      }
    }
  }

  void do_gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override {
    const std::int64_t size = out.size(1);
    for (std::int64_t i = 0; i < out.size(0); ++i) {
      const float* gate = gate_up.row<const float>(i);
      const float* up = gate + size;
      for (std::int64_t j = 0; j < size; ++j) out.row<float>(i)[j] = static_cast<float>(activate(gate[j], activation) * up[j]);
    }
  }

  void do_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                            const Batch& batch) override {
    reference_rope_and_write_kv(q, k, v, rope, kv, batch);
  }

  void do_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) override {
    reference_attention(out, q, kv, batch, params);
  }

  void do_gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override {
    for (std::int64_t i = 0; i < out.size(0); ++i) {
      const std::int64_t row = rows.data<const std::int32_t>()[i];
      check(row >= 0 && row < x.size(0), "gather_rows: a row lies outside x");
      std::copy_n(x.row<const float>(row), x.size(1), out.row<float>(i));
    }
  }

  void do_add(const Tensor& x, const Tensor& y) override {
    for (std::int64_t i = 0; i < x.size(0); ++i)
      for (std::int64_t j = 0; j < x.size(1); ++j) x.row<float>(i)[j] += y.row<const float>(i)[j];
  }

  void do_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result) override {
    sampler_.sample(logits, batch, result, 0, logits.size(0));
  }

 private:
  HostAllocator own_allocator_;
  Allocator& allocator_;
  Sampler sampler_;
};

}  // namespace

std::unique_ptr<Ops> make_reference_ops(Allocator* allocator) { return std::make_unique<ReferenceOps>(allocator); }

}  // namespace gossamer
