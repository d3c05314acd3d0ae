// Every verb refuses what a backend could not assume, says which sizes disagree, and then has not called the backend.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "ops/ops.h"

namespace gossamer {
namespace {

class FakeWeight final : public PackedWeight {
 public:
  std::int64_t rows() const override { return 6; }
  std::int64_t cols() const override { return 8; }
  std::int64_t nbytes() const override { return 0; }
  DType dtype() const override { return DType::f32; }
  bool is_sparse() const override { return false; }
  std::string format() const override { return "fake"; }
};

// Counts the calls that pass the door. Its activations are bf16, so that f32 is not right by chance.
class FakeOps final : public Ops {
 public:
  Device device() const override { return {}; }
  DType activation_dtype() const override { return DType::bf16; }
  Allocator& allocator() override { return allocator_; }
  std::string description() const override { return "fake"; }
  bool takes(DType values) const override { return is_floating(values) || takes_scaled; }
  void synchronize() override { ++synchronized; }
  bool takes_scaled = false;
  int calls = 0;
  int synchronized = 0;

 protected:
  std::unique_ptr<PackedWeight> do_pack_dense(const Tensor&) override { return pass(); }
  std::unique_ptr<PackedWeight> do_pack_sparse(const SparseWeight&) override { return pass(); }
  std::unique_ptr<PackedWeight> do_pack_scaled(const ScaledMatrix&) override { return pass(); }
  void do_copy(const Tensor&, const Tensor&) override { ++calls; }
  void do_embedding(const Tensor&, const Tensor&, const Tensor&, std::int64_t, bool) override { ++calls; }
  void do_rms_norm(const Tensor&, const Tensor&, const Tensor&, float) override { ++calls; }
  void do_layer_norm(const Tensor&, const Tensor&, const Tensor&, const Tensor&, float) override { ++calls; }
  void do_linear(const Tensor&, const Tensor&, const PackedWeight&, const Epilogue&) override { ++calls; }
  void do_gated_activation(const Tensor&, const Tensor&, Activation) override { ++calls; }
  void do_rope_and_write_kv(const Tensor&, const Tensor&, const Tensor&, const RopeTable*, const KvLayer&, const Batch&) override {
    ++calls;
  }
  void do_attention(const Tensor&, const Tensor&, const KvLayer&, const Batch&, const AttentionParams&) override { ++calls; }
  void do_gather_rows(const Tensor&, const Tensor&, const Tensor&) override { ++calls; }
  void do_add(const Tensor&, const Tensor&) override { ++calls; }
  void do_sample(const Tensor&, const SampleBatch&, const SampleResult&) override { ++calls; }

 private:
  std::unique_ptr<PackedWeight> pass() {
    ++calls;
    return std::make_unique<FakeWeight>();
  }
  HostAllocator allocator_;
};

class Door : public ::testing::Test {
 protected:
  void refuses(const std::string& message, const std::function<void()>& call) {
    const int before = ops.calls;
    try {
      call();
      ADD_FAILURE() << "accepted; expected: " << message;
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << "said: " << error.what() << "\nexpected: " << message;
    }
    EXPECT_EQ(ops.calls, before);
  }
  void accepts(const std::function<void()>& call) {
    const int before = ops.calls;
    EXPECT_NO_THROW(call());
    EXPECT_EQ(ops.calls, before + 1);
  }

  // Tensors that share no memory; nothing is ever read through them.
  Tensor make(DType dtype, std::initializer_list<std::int64_t> shape, Device device = {}) {
    used_ += 64;
    return Tensor(memory_.data() + used_, dtype, shape, device);
  }
  Tensor act(std::initializer_list<std::int64_t> shape) { return make(DType::bf16, shape); }
  Tensor ints(std::int64_t size) { return make(DType::i32, {size}); }
  // A column of a wider matrix: the last axis is strided.
  Tensor transposed(std::int64_t rows, std::int64_t cols) {
    const Tensor wide = act({rows, cols, 2});
    return wide.select(2, 0);
  }

  FakeOps ops;
  const Device gpu{Device::Kind::cuda, 1};

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(1 << 16);
  std::size_t used_ = 0;
};

TEST_F(Door, PackDense) {
  accepts([&] { ops.pack(make(DType::f16, {3, 4})); });
  refuses("pack: the weight is f32[3] on cpu; it must have rank 2", [&] { ops.pack(make(DType::f32, {3})); });
  refuses("pack: the weight is i32[3, 4] on cpu; it must be f32, f16 or bf16", [&] { ops.pack(make(DType::i32, {3, 4})); });
  refuses("pack: the weight is f32[0, 4] on cpu; both sizes must be positive", [&] { ops.pack(make(DType::f32, {0, 4})); });
  refuses("pack: the weight is f32[3, 4] on cuda:1; it must be on cpu", [&] { ops.pack(make(DType::f32, {3, 4}, gpu)); });
  refuses("not of stride 2", [&] { ops.pack(transposed(3, 4)); });
}

TEST_F(Door, PackSparse) {
  std::int64_t offsets[] = {0, 2, 3, 5};
  const SparseWeight good{3, 9, make(DType::u8, {3, 2}), make(DType::f16, {5}), Tensor(offsets, DType::i64, {4})};
  accepts([&] { ops.pack(good); });
  const auto with = [&](const std::function<void(SparseWeight&)>& change) {
    return [&, change] {
      SparseWeight weight = good;
      change(weight);
      ops.pack(weight);
    };
  };
  refuses("pack: the weight is [0, 9]; both sizes must be positive", with([](SparseWeight& w) { w.rows = 0; }));
  refuses("pack: mask is u8[3, 2] on cpu but the weight is [3, 17]", with([](SparseWeight& w) { w.cols = 17; }));
  refuses("pack: mask is f16[5] on cpu; it must have rank 2", with([&](SparseWeight& w) { w.mask = w.values; }));
  refuses("pack: values is i32[5] on cpu; it must be f32, f16 or bf16", with([&](SparseWeight& w) { w.values = ints(5); }));
  refuses("row_offsets is i64[3] on cpu but the weight has rows = 3",
          with([&](SparseWeight& w) { w.row_offsets = w.row_offsets.rows(0, 3); }));
  refuses("pack: values is f16[4] on cpu but row_offsets ends at 5", with([](SparseWeight& w) { w.values = w.values.rows(0, 4); }));
}

TEST_F(Door, PackScaled) {
  const ScaledMatrix good{make(DType::i8, {3, 200}), make(DType::f32, {3, 4}), 64};
  refuses("pack: the weight's values are i8, which this device does not multiply", [&] { ops.pack(good); });
  ops.takes_scaled = true;
  accepts([&] { ops.pack(good); });
  accepts([&] { ops.pack(ScaledMatrix{make(DType::e4m3, {3, 7}), make(DType::f32, {3, 1}), 7}); });
  refuses("the weight's values are f16; with scales they must be i8, e4m3 or i4",
          [&] { ops.pack(ScaledMatrix{make(DType::f16, {3, 200}), good.scales, 64}); });
  refuses("pack: 65 columns share a scale", [&] { ops.pack(ScaledMatrix{good.values, good.scales, 65}); });
  refuses("pack: scales is f32[3, 3] on cpu but the weight is [3, 200] and 64 columns share a scale",
          [&] { ops.pack(ScaledMatrix{good.values, make(DType::f32, {3, 3}), 64}); });
  refuses("pack: scales is f16[3, 4] on cpu; it must be f32", [&] { ops.pack(ScaledMatrix{good.values, make(DType::f16, {3, 4}), 64}); });
  std::int64_t offsets[] = {0, 2, 3, 5};
  SparseWeight sparse{3, 9, make(DType::u8, {3, 2}), make(DType::i8, {5}), Tensor(offsets, DType::i64, {4})};
  refuses("pack: 0 columns share a scale", [&] { ops.pack(sparse); });
  sparse.group = 9;
  sparse.scales = make(DType::f32, {3, 1});
  accepts([&] { ops.pack(sparse); });
  sparse.values = make(DType::f16, {5});
  refuses("pack: scales is f32[3, 1] on cpu but values is f16[5] on cpu", [&] { ops.pack(sparse); });
}

TEST_F(Door, Copies) {
  const Tensor host = act({3, 4});
  accepts([&] { ops.upload(act({3, 4}), host); });
  accepts([&] { ops.download(host, act({3, 4})); });
  EXPECT_EQ(ops.synchronized, 1);  // a download is complete on return; an upload need not be
  refuses("upload: device_out is bf16[4, 3] on cpu but host is bf16[3, 4] on cpu; their shapes must be equal",
          [&] { ops.upload(act({4, 3}), host); });
  refuses("upload: host is bf16[3, 4] on cpu; it must be f16", [&] { ops.upload(make(DType::f16, {3, 4}), host); });
  refuses("upload: device_out is bf16[3, 4] on cuda:1; it must be on cpu", [&] { ops.upload(make(DType::bf16, {3, 4}, gpu), host); });
  refuses("upload: host is bf16[3, 4] on cpu with strided rows; it must be contiguous",
          [&] { ops.upload(act({3, 4}), act({3, 8}).slice(1, 0, 4)); });
  refuses("download: host_out is bf16[3, 4] on cuda:1; it must be on cpu", [&] { ops.download(make(DType::bf16, {3, 4}, gpu), host); });
  refuses("download: host_out is f32[3, 4] on cpu; it must be bf16", [&] { ops.download(make(DType::f32, {3, 4}), host); });
  refuses("download: device is bf16[3, 4] on cpu with strided rows", [&] { ops.download(act({3, 4}), act({3, 8}).slice(1, 0, 4)); });
}

TEST_F(Door, Embedding) {
  const Tensor out = act({3, 4}), table = make(DType::f32, {7, 4}), ids = ints(3);
  accepts([&] { ops.embedding(out, table, ids, 5, true); });
  refuses("embedding: out is f32[3, 4] on cpu; it must be bf16", [&] { ops.embedding(make(DType::f32, {3, 4}), table, ids); });
  refuses("embedding: table is f32[7, 5] on cpu but out has hidden size 4", [&] { ops.embedding(out, make(DType::f32, {7, 5}), ids); });
  refuses("embedding: table is u8[7, 4] on cpu; it must be f32, f16 or bf16", [&] { ops.embedding(out, make(DType::u8, {7, 4}), ids); });
  refuses("embedding: ids is i32[2] on cpu but the rows of out = 3", [&] { ops.embedding(out, table, ints(2)); });
  refuses("embedding: ids is i64[3] on cpu; it must be i32", [&] { ops.embedding(out, table, make(DType::i64, {3})); });
  refuses("embedding: row_begin = -1; it must not be negative", [&] { ops.embedding(out, table, ids, -1); });
}

TEST_F(Door, Norms) {
  const Tensor x = act({3, 8}), out = act({3, 8}), weight = act({8}), bias = act({8});
  accepts([&] { ops.rms_norm(x, x, weight, 1e-5F); });
  accepts([&] { ops.rms_norm(act({3, 2, 4}), x.split_last(2, 4), act({4}), 0.0F); });
  accepts([&] { ops.layer_norm(out, x, weight, bias, 1e-5F); });
  refuses("rms_norm: x is bf16[8] on cpu; it must have rank 2 or 3", [&] { ops.rms_norm(act({8}), act({8}), weight, 1e-5F); });
  refuses("rms_norm: out is bf16[2, 8] on cpu but x is bf16[3, 8] on cpu", [&] { ops.rms_norm(act({2, 8}), x, weight, 1e-5F); });
  refuses("rms_norm: weight is bf16[7] on cpu but the last axis of x = 8", [&] { ops.rms_norm(out, x, act({7}), 1e-5F); });
  refuses("rms_norm: eps = nan", [&] { ops.rms_norm(out, x, weight, NAN); });
  refuses("rms_norm: eps = -1", [&] { ops.rms_norm(out, x, weight, -1.0F); });
  refuses("rms_norm: x is bf16[3, 8] on cpu; its last axis must be contiguous, not of stride 2",
          [&] { ops.rms_norm(out, transposed(3, 8), weight, 1e-5F); });
  refuses("layer_norm: x is f32[3, 8] on cpu; it must be bf16",
          [&] { ops.layer_norm(out, make(DType::f32, {3, 8}), weight, bias, 1e-5F); });
  refuses("layer_norm: weight is f32[8] on cpu; it must be bf16", [&] { ops.layer_norm(out, x, make(DType::f32, {8}), bias, 1e-5F); });
  refuses("layer_norm: bias is bf16[9] on cpu but the last axis of x = 8", [&] { ops.layer_norm(out, x, weight, act({9}), 1e-5F); });
  refuses("layer_norm: x is undefined", [&] { ops.layer_norm(out, Tensor(nullptr, DType::bf16, {3, 8}), weight, bias, 1e-5F); });
  refuses("layer_norm: eps = inf", [&] { ops.layer_norm(out, x, weight, bias, INFINITY); });
}

TEST_F(Door, Linear) {
  const FakeWeight weight;
  const Tensor x = act({3, 8}), out = act({3, 6});
  accepts([&] { ops.linear(out, x, weight); });
  accepts([&] { ops.linear(make(DType::f32, {3, 6}), x, weight); });
  accepts([&] { ops.linear(out, x, weight, {act({6}), Activation::silu, out}); });
  refuses("linear: x is bf16[3, 64] on cpu but the weight has k = 8", [&] { ops.linear(out, act({3, 64}), weight); });
  refuses("linear: out is bf16[3, 7] on cpu but the weight has m = 6", [&] { ops.linear(act({3, 7}), x, weight); });
  refuses("linear: out is bf16[4, 6] on cpu but x is bf16[3, 8] on cpu; both must have n rows",
          [&] { ops.linear(act({4, 6}), x, weight); });
  refuses("linear: out is f16[3, 6] on cpu; it must be bf16 or f32", [&] { ops.linear(make(DType::f16, {3, 6}), x, weight); });
  refuses("linear: x is f32[3, 8] on cpu; it must be bf16", [&] { ops.linear(out, make(DType::f32, {3, 8}), weight); });
  refuses("linear: bias is bf16[5] on cpu but the weight's m = 6", [&] { ops.linear(out, x, weight, {act({5}), Activation::none, {}}); });
  refuses("linear: residual is bf16[2, 6] on cpu but out is bf16[3, 6] on cpu",
          [&] { ops.linear(out, x, weight, {{}, Activation::none, act({2, 6})}); });
  refuses("linear: residual is bf16[3, 6] on cpu; it must be f32",
          [&] { ops.linear(make(DType::f32, {3, 6}), x, weight, {{}, Activation::none, act({3, 6})}); });
  refuses("linear: out and x are the same memory", [&] { ops.linear(x.slice(1, 0, 6), x, weight); });
}

TEST_F(Door, ElementwiseVerbs) {
  const Tensor x = act({3, 8});
  accepts([&] { ops.gated_activation(act({3, 4}), x, Activation::silu); });
  refuses("gated_activation: gate_up is bf16[3, 8] on cpu but out is bf16[3, 5] on cpu; gate_up must have twice its columns",
          [&] { ops.gated_activation(act({3, 5}), x, Activation::silu); });
  refuses("gated_activation: gate_up is bf16[3, 8] on cpu but out is bf16[2, 4] on cpu",
          [&] { ops.gated_activation(act({2, 4}), x, Activation::silu); });
  refuses("gated_activation: out and gate_up are the same memory", [&] { ops.gated_activation(x.slice(1, 0, 4), x, Activation::silu); });
  accepts([&] { ops.gather_rows(act({2, 8}), x, ints(2)); });
  refuses("gather_rows: out is bf16[2, 7] on cpu but x is bf16[3, 8] on cpu; both must have the same columns",
          [&] { ops.gather_rows(act({2, 7}), x, ints(2)); });
  refuses("gather_rows: rows is i32[3] on cpu but the rows of out = 2", [&] { ops.gather_rows(act({2, 8}), x, ints(3)); });
  refuses("gather_rows: out and x are the same memory", [&] { ops.gather_rows(x, x, ints(3)); });
  accepts([&] { ops.add(x, act({3, 8})); });
  refuses("add: y is bf16[3, 7] on cpu but x is bf16[3, 8] on cpu; their shapes must be equal", [&] { ops.add(x, act({3, 7})); });
  refuses("add: y is f32[3, 8] on cpu; it must be bf16", [&] { ops.add(x, make(DType::f32, {3, 8})); });
  refuses("add: x is bf16[3, 8] on cuda:1; it must be on cpu", [&] { ops.add(make(DType::bf16, {3, 8}, gpu), x); });
}

TEST_F(Door, RopeAndWriteKv) {
  const Tensor q = act({3, 4, 8}), k = act({3, 2, 8}), v = act({3, 2, 8});
  const KvLayer kv{make(DType::f16, {5, 2, 4, 8}), make(DType::f16, {5, 2, 4, 8})};
  const RopeTable rope{make(DType::f32, {10, 4}), make(DType::f32, {10, 4})};
  Batch batch;
  batch.num_tokens = 3;
  batch.slots = ints(3);
  accepts([&] { ops.rope_and_write_kv(q, k, v, nullptr, kv, batch); });
  refuses("batch.positions is undefined", [&] { ops.rope_and_write_kv(q, k, v, &rope, kv, batch); });
  batch.positions = ints(3);
  accepts([&] { ops.rope_and_write_kv(q, k, v, &rope, kv, batch); });
  refuses("q is bf16[2, 4, 8] on cpu and k is bf16[3, 2, 8] on cpu but the batch has num_tokens = 3",
          [&] { ops.rope_and_write_kv(act({2, 4, 8}), k, v, &rope, kv, batch); });
  refuses("v is bf16[3, 2, 6] on cpu but k is bf16[3, 2, 8] on cpu",
          [&] { ops.rope_and_write_kv(q, k, act({3, 2, 6}), &rope, kv, batch); });
  refuses("both must have the same head_dim", [&] { ops.rope_and_write_kv(act({3, 4, 6}), k, v, &rope, kv, batch); });
  refuses("kv.keys is f16[5, 2, 4, 8] on cpu but the model has num_kv_heads = 1",
          [&] { ops.rope_and_write_kv(q, act({3, 1, 8}), act({3, 1, 8}), &rope, kv, batch); });
  refuses("kv.values is bf16[5, 2, 4, 8] on cpu; it must be f16",
          [&] { ops.rope_and_write_kv(q, k, v, &rope, {kv.keys, act({5, 2, 4, 8})}, batch); });
  refuses("kv.keys is f16[5, 2, 4, 8] on cpu with strided rows", [&] {
    const Tensor strided = make(DType::f16, {5, 2, 8, 8}).slice(2, 0, 4);
    ops.rope_and_write_kv(q, k, v, &rope, {strided, strided}, batch);
  });
  const RopeTable wide{make(DType::f32, {10, 5}), make(DType::f32, {10, 5})};
  refuses("rope.cos is f32[10, 5] on cpu but head_dim = 8", [&] { ops.rope_and_write_kv(q, k, v, &wide, kv, batch); });
  const RopeTable uneven{make(DType::f32, {10, 4}), make(DType::f32, {9, 4})};
  refuses("rope.sin is f32[9, 4] on cpu but rope.cos is f32[10, 4] on cpu", [&] { ops.rope_and_write_kv(q, k, v, &uneven, kv, batch); });
  batch.slots = ints(4);
  refuses("batch.slots is i32[4] on cpu but num_tokens = 3", [&] { ops.rope_and_write_kv(q, k, v, &rope, kv, batch); });
}

TEST_F(Door, Attention) {
  const Tensor q = act({5, 4, 8}), out = act({5, 4, 8});
  const KvLayer kv{make(DType::f32, {5, 2, 4, 8}), make(DType::f32, {5, 2, 4, 8})};
  Batch good;
  good.num_tokens = 5;
  good.num_seqs = 2;
  good.query_start = ints(3);
  good.context_len = ints(2);
  good.block_table = make(DType::i32, {2, 6});
  accepts([&] { ops.attention(out, q, kv, good, {}); });
  const auto with = [&](const std::function<void(Batch&)>& change) {
    return [&, change] {
      Batch batch = good;
      change(batch);
      ops.attention(out, q, kv, batch, {});
    };
  };
  refuses("q is bf16[5, 4, 8] on cpu but the batch has num_tokens = 6", with([](Batch& b) { b.num_tokens = 6; }));
  refuses("batch.query_start is i32[2] on cpu but num_seqs + 1 = 3", with([&](Batch& b) { b.query_start = ints(2); }));
  refuses("batch.context_len is i32[3] on cpu but num_seqs = 2", with([&](Batch& b) { b.context_len = ints(3); }));
  refuses("batch.block_table is i32[3, 6] on cpu but num_seqs = 2", with([&](Batch& b) { b.block_table = make(DType::i32, {3, 6}); }));
  refuses("batch.block_table is i64[2, 6] on cpu; it must be i32", with([&](Batch& b) { b.block_table = make(DType::i64, {2, 6}); }));
  refuses("out is bf16[5, 4, 6] on cpu but q is bf16[5, 4, 8] on cpu", [&] { ops.attention(act({5, 4, 6}), q, kv, good, {}); });
  refuses("num_kv_heads = 2; it must divide num_heads", [&] { ops.attention(act({5, 3, 8}), act({5, 3, 8}), kv, good, {}); });
  refuses("but head_dim = 6", [&] { ops.attention(act({5, 4, 6}), act({5, 4, 6}), kv, good, {}); });
  refuses("kv.keys is undefined", [&] { ops.attention(out, q, {}, good, {}); });
  refuses("out and q are the same memory", [&] { ops.attention(q, q, kv, good, {}); });
  refuses("scale = nan", [&] { ops.attention(out, q, kv, good, {.scale = NAN}); });
  refuses("sliding_window = -1", [&] { ops.attention(out, q, kv, good, {.sliding_window = -1}); });
}

TEST_F(Door, Sample) {
  const Tensor logits = make(DType::f32, {2, 10});
  std::int32_t tokens[2], ranks[2], top_tokens[6];
  float logprobs[2], top_logprobs[6];
  const SampleResult result{tokens, logprobs, ranks, top_tokens, top_logprobs, 3};
  const auto with_row = [&](const SampleRow& row) {
    return [&, row] {
      const SampleRow rows[] = {{}, row};
      ops.sample(logits, {rows, {}}, result);
    };
  };
  accepts(with_row({}));
  accepts(with_row({.temperature = 0.0F, .top_p = 0.0F, .num_logprobs = 3, .target = 9}));
  refuses("sample: row 1 has temperature = -0.5", with_row({.temperature = -0.5F}));
  refuses("sample: row 1 has temperature = inf", with_row({.temperature = INFINITY}));
  refuses("sample: row 1 has temperature = nan", with_row({.temperature = NAN}));
  refuses("sample: row 1 has top_k = -1; it must be at least 0 (0 = all)", with_row({.top_k = -1}));
  refuses("sample: row 1 has top_p = 1.5", with_row({.top_p = 1.5F}));
  refuses("sample: row 1 has top_p = nan", with_row({.top_p = NAN}));
  refuses("sample: row 1 has min_p = -0.1", with_row({.min_p = -0.1F}));
  refuses("sample: row 1 has repetition_penalty = 0", with_row({.repetition_penalty = 0.0F}));
  refuses("sample: row 1 has a presence or frequency penalty that is not finite", with_row({.frequency_penalty = NAN}));
  refuses("sample: row 1 has target = 10 but vocab_size = 10", with_row({.target = 10}));
  refuses("sample: row 1 has num_logprobs = 4 but max_logprobs = 3", with_row({.num_logprobs = 4}));

  const SampleRow rows[2] = {};
  const auto with_adjustments = [&](std::vector<TokenAdjustment> adjustments) {
    return [&, adjustments] { ops.sample(logits, {rows, adjustments}, result); };
  };
  accepts(with_adjustments({{0, 9, 1, true, 0.0F}, {1, 0, 0, false, -INFINITY}, {1, 3, 0, false, 1.0F}}));
  refuses("an adjustment has row = 2 but there are 2 rows", with_adjustments({{2, 0, 0, false, 0.0F}}));
  refuses("an adjustment has token = 10 but vocab_size = 10", with_adjustments({{0, 10, 0, false, 0.0F}}));
  refuses("an adjustment has token = -1", with_adjustments({{0, -1, 0, false, 0.0F}}));
  refuses("an adjustment of token 4 has bias = inf", with_adjustments({{0, 4, 0, false, INFINITY}}));
  refuses("an adjustment of token 4 has bias = nan", with_adjustments({{0, 4, 0, false, NAN}}));
  refuses("must be sorted by row, then token", with_adjustments({{0, 4, 0, false, 0.0F}, {0, 3, 0, false, 0.0F}}));
  refuses("must be sorted by row, then token, each pair once", with_adjustments({{0, 4, 0, false, 0.0F}, {0, 4, 0, false, 0.0F}}));

  refuses("logits is bf16[2, 10] on cpu; it must be f32", [&] { ops.sample(act({2, 10}), {rows, {}}, result); });
  refuses("logits is f32[3, 10] on cpu but the batch has 2 rows", [&] { ops.sample(make(DType::f32, {3, 10}), {rows, {}}, result); });
  refuses("but result has 1 tokens, 2 logprobs and 2 ranks",
          [&] { ops.sample(logits, {rows, {}}, {{tokens, 1}, logprobs, ranks, top_tokens, top_logprobs, 3}); });
  refuses("result has 6 top_tokens and 6 top_logprobs but rows * max_logprobs = 4",
          [&] { ops.sample(logits, {rows, {}}, {tokens, logprobs, ranks, top_tokens, top_logprobs, 2}); });
}

TEST_F(Door, EmptyWorkStopsAtTheDoor) {
  ops.add(act({0, 8}), act({0, 8}));
  ops.linear(act({0, 6}), Tensor(nullptr, DType::bf16, {0, 8}), FakeWeight());
  ops.sample(make(DType::f32, {0, 10}), {}, {});
  EXPECT_EQ(ops.calls, 0);
}

TEST_F(Door, RunRecordedCallsTheFunction) {
  int ran = 0;
  ops.run_recorded(7, [&] { ++ran; });
  ops.run_recorded(7, [&] { ++ran; });
  EXPECT_EQ(ran, 2);
}

}  // namespace
}  // namespace gossamer
