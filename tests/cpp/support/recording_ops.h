// Ops that record, on the host: run_recorded notes the verbs of a key's second call and later calls them again, with the tensors of then,
// without asking who recorded them. What a step computes beside its verbs, or with other addresses, shows as wrong tokens.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "ops/ops.h"

namespace gossamer::testing {

class RecordingOps final : public Ops {
 public:
  explicit RecordingOps(Ops& ops) : ops_(ops) {}

  Device device() const override { return ops_.device(); }
  DType activation_dtype() const override { return ops_.activation_dtype(); }
  Allocator& allocator() override { return ops_.allocator(); }
  std::string description() const override { return "recording " + ops_.description(); }
  bool takes(DType values) const override { return ops_.takes(values); }
  void synchronize() override { ops_.synchronize(); }
  bool records() const override { return true; }

  void run_recorded(std::uint64_t key, const std::function<void()>& fn) override {
    const auto [found, is_new] = recordings_.try_emplace(key);
    if (is_new) return fn();
    if (found->second.empty()) {
      recording_ = &found->second;
      fn();
      recording_ = nullptr;
    } else {
      ++num_replays_;
      for (const auto& verb : found->second) verb();
    }
  }

  std::int64_t num_replays() const { return num_replays_; }
  std::int64_t num_launches() const { return num_launches_; }  // verbs outside of recordings and their first calls

 private:
  // Does it, and notes it where something is recorded. Tensors are views: the copies of one see what is there when they are used.
  template <typename Verb>
  void run(const Verb& verb) {
    if (recording_ != nullptr) recording_->push_back(verb);
    if (recording_ == nullptr) ++num_launches_;
    verb();
  }

  std::unique_ptr<PackedWeight> do_pack_dense(const Tensor& dense) override { return ops_.pack(dense); }
  std::unique_ptr<PackedWeight> do_pack_sparse(const SparseWeight& weight) override { return ops_.pack(weight); }
  std::unique_ptr<PackedWeight> do_pack_scaled(const ScaledMatrix& dense) override { return ops_.pack(dense); }
  void do_copy(const Tensor& out, const Tensor& in) override {
    check(recording_ == nullptr, "a copy from or to the host in a recorded step");
    ++num_launches_;
    ops_.upload(out, in);
  }
  void do_embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin, bool accumulate) override {
    run([=, this] { ops_.embedding(out, table, ids, row_begin, accumulate); });
  }
  void do_rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps) override {
    run([=, this] { ops_.rms_norm(out, x, weight, eps); });
  }
  void do_layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) override {
    run([=, this] { ops_.layer_norm(out, x, weight, bias, eps); });
  }
  void do_linear(const Tensor& out, const Tensor& x, const PackedWeight& weight, const Epilogue& epilogue) override {
    run([=, this, &weight] { ops_.linear(out, x, weight, epilogue); });
  }
  void do_gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override {
    run([=, this] { ops_.gated_activation(out, gate_up, activation); });
  }
  void do_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                            const Batch& batch) override {
    run([=, this] { ops_.rope_and_write_kv(q, k, v, rope, kv, batch); });
  }
  void do_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) override {
    run([=, this] { ops_.attention(out, q, kv, batch, params); });
  }
  void do_gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override {
    run([=, this] { ops_.gather_rows(out, x, rows); });
  }
  void do_add(const Tensor& x, const Tensor& y) override {
    run([=, this] { ops_.add(x, y); });
  }
  void do_take_tokens(const Tensor& ids, const Tensor& rows, const Tensor& tokens) override {
    run([=, this] { ops_.take_tokens(ids, rows, tokens); });
  }
  void do_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result) override {
    check(recording_ == nullptr, "sampling waits, and a recorded step must not");
    ++num_launches_;
    ops_.sample(logits, batch, result);
  }

  Ops& ops_;
  std::map<std::uint64_t, std::vector<std::function<void()>>> recordings_;
  std::vector<std::function<void()>>* recording_ = nullptr;
  std::int64_t num_replays_ = 0;
  std::int64_t num_launches_ = 0;
};

}  // namespace gossamer::testing
