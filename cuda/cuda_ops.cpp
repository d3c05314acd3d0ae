#include "cuda_ops.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "byte_weight.h"
#include "core/error.h"
#include "core/log.h"
#include "core/thread_pool.h"
#include "cuda_linear.h"
#include "cuda_sampler.h"
#include "graphs.h"
#include "launch/attention.h"
#include "launch/device_probe.h"
#include "launch/rowwise.h"
#include "plan/cost_table_text.h"
#include "sparse/dequantize.h"
#include "status.h"
#include "weight_packer.h"

namespace gossamer::cuda {

DeviceLimits limits_of(int device_index) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check_status(cudaDeviceGetAttribute(&value, name, device_index), "cudaDeviceGetAttribute");
    return value;
  };
  DeviceLimits limits;
  limits.num_sms = attribute(cudaDevAttrMultiProcessorCount);
  limits.shared_bytes_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  limits.shared_bytes_per_sm = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  const int major = attribute(cudaDevAttrComputeCapabilityMajor);
  limits.dependent_launch = major >= 9;
  limits.wgmma = major == 9;
  return limits;
}

namespace {

constexpr std::size_t kStagingBytes = std::size_t{4} << 20;
constexpr std::int64_t kReservedBytes = std::int64_t{512} << 20;  // for the verbs' workspaces, graphs and the driver
constexpr std::int64_t kMostPartials = std::int64_t{1} << 24;     // floats of attention's partial sums, in batch-invariant mode
constexpr double kLog2E = 1.4426950408889634;

// A stream of its own: nothing of the process waits for it, nor it for anything.
class Stream {
 public:
  explicit Stream(int device_index) {
    check_status(cudaSetDevice(device_index), "cudaSetDevice");
    check_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Pinned memory through which small uploads go, so that the host need not wait for them.
class Staging {
 public:
  explicit Staging(Allocator& pinned) {
    for (Buffer& slot : slots_) slot = Buffer(pinned, kStagingBytes);
    for (cudaEvent_t& event : events_) check_status(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~Staging() {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void upload(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
    next_ = (next_ + 1) % slots_.size();
    check_status(cudaEventSynchronize(events_[next_]), "upload (cudaEventSynchronize)");
    std::memcpy(slots_[next_].data(), from, bytes);
    check_status(cudaMemcpyAsync(to, slots_[next_].data(), bytes, cudaMemcpyHostToDevice, stream), "upload (cudaMemcpyAsync)");
    check_status(cudaEventRecord(events_[next_], stream), "upload (cudaEventRecord)");
  }

 private:
  static constexpr std::size_t kSlots = 4;  // a step has two uploads, and two steps may be open
  std::array<Buffer, kSlots> slots_;
  std::array<cudaEvent_t, kSlots> events_{};
  std::size_t next_ = 0;
};

// GPU time between two points of a stream.
class Timer {
 public:
  Timer() {
    check_status(cudaEventCreate(&begin_), "cudaEventCreate");
    check_status(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Timer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void begin(cudaStream_t stream) const { check_status(cudaEventRecord(begin_, stream), "cudaEventRecord"); }
  float end(cudaStream_t stream) const {  // milliseconds
    float elapsed = 0.0F;
    check_status(cudaEventRecord(end_, stream), "cudaEventRecord");
    check_status(cudaEventSynchronize(end_), "cudaEventSynchronize");
    check_status(cudaEventElapsedTime(&elapsed, begin_, end_), "cudaEventElapsedTime");
    return elapsed;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

std::unique_ptr<CublasLt> load_library() {
  std::string problem;
  std::unique_ptr<CublasLt> library = CublasLt::load(problem);
  if (library == nullptr) log(LogLevel::warning, "dense products will be slow: " + problem);
  return library;
}

class CudaOps final : public Ops {
 public:
  CudaOps(int device_index, DType act, std::string name, const BackendOptions& options, CostTable table)
      : device_{Device::Kind::cuda, device_index},
        act_(act),
        eight_bit_(options.eight_bit),
        name_(std::move(name)),
        stream_(device_index),
        limits_(limits_of(device_index)),
        allocator_(device_index),
        staging_(pinned_),
        partials_(allocator_),
        batch_invariant_(options.batch_invariant),
        linear_(allocator_, limits_, load_library(), act, {options.batch_invariant, options.eight_bit, std::move(table)}),
        sampler_(allocator_, pinned_) {}
  ~CudaOps() override {
    cudaSetDevice(device_.index);
    cudaStreamSynchronize(stream_.get());
  }

  Device device() const override { return device_; }
  DType activation_dtype() const override { return act_; }
  Allocator& allocator() override { return allocator_; }
  // Those that are not kept become halves.
  bool takes(DType values) const override { return is_floating(values) || is_scaled(values); }
  std::string description() const override { return device_.to_string() + ", " + name_; }
  void synchronize() override {
    check_status(cudaStreamSynchronize(bound()), "the GPU's work (cudaStreamSynchronize)");
    if (packer_) packer_->release();  // loading ends so
  }

  void select_candidate(const std::string& name) override {
    if (name == "pack") {
      packer_.emplace(allocator_, pinned_, pool_);
    } else {
      Ops::select_candidate(name);
    }
  }

  void finish_sample() override {
    bound();
    sampler_.finish();
  }

  double measure_read_rate() override {
    constexpr std::int64_t kBytes = std::int64_t{1} << 30;  // far beyond the L2 cache
    constexpr int kPasses = 10;
    const cudaStream_t stream = bound();
    const Buffer memory(allocator_, static_cast<std::size_t>(kBytes)), sink(allocator_, sizeof(std::uint32_t));
    check_status(cudaMemsetAsync(memory.data(), 1, static_cast<std::size_t>(kBytes), stream), "measure_read_rate (cudaMemsetAsync)");
    const Timer timer;
    float best = 0.0F;
    for (int pass = 0; pass < kPasses; ++pass) {
      timer.begin(stream);
      check_status(launch_read(memory.data(), kBytes, static_cast<std::uint32_t*>(sink.data()), limits_.num_sms, stream),
                   "measure_read_rate");
      const float milliseconds = timer.end(stream);
      best = pass == 0 ? milliseconds : std::min(best, milliseconds);
    }
    return static_cast<double>(kBytes) / (1e-3 * best);
  }

  bool records() const override { return true; }
  void run_recorded(std::uint64_t key, const std::function<void()>& fn) override { graphs_.run(key, fn, bound()); }
  void forget_recordings() override { graphs_.clear(); }

  std::optional<DeviceMemory> device_memory() const override {
    check_status(cudaSetDevice(device_.index), "cudaSetDevice");
    std::size_t free_bytes = 0, total_bytes = 0;
    check_status(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
    const std::int64_t wanted = kReservedBytes + linear_.pending_bytes();
    return DeviceMemory{static_cast<std::int64_t>(total_bytes), static_cast<std::int64_t>(free_bytes) - wanted};
  }

 protected:
  std::unique_ptr<PackedWeight> do_pack_dense(const Tensor& dense) override {
    const cudaStream_t stream = bound();
    if (packer_ && dense.dtype() == act_ && dense.is_contiguous() && dense.size(1) % 8 == 0) return packer_->pack_dense(dense, stream);
    return std::make_unique<DenseWeight>(dense, act_, allocator_, pool_);
  }
  std::unique_ptr<PackedWeight> do_pack_scaled(const ScaledMatrix& dense) override {
    HostAllocator host;
    if (keeps(dense.dtype(), dense.group, dense.cols())) return pack_bytes(with_full_mask(dense, host, pool_).view);
    return do_pack_dense(dequantize(dense, act_, host, pool_).view);
  }
  std::unique_ptr<PackedWeight> do_pack_sparse(const SparseWeight& weight) override {
    bound();
    if (is_scaled(weight.dtype())) {
      if (keeps(weight.dtype(), weight.group, weight.cols)) return pack_bytes(weight);
      HostAllocator host;
      return do_pack_sparse(dequantize(weight, act_, host, pool_).view);
    }
    const ProductPath path = linear_.path_for(weight.rows, weight.cols, weight.nnz());
    if (path == ProductPath::dense) {
      HostAllocator host;
      const OwnedTensor dense(host, weight.dtype(), {weight.rows, weight.cols});
      sparse_to_dense(weight, dense.view);
      return std::make_unique<DenseWeight>(dense.view, act_, allocator_, pool_);
    }
    const bool is_packed_here = packer_ && format_of(path) == TileFormat::bitmap && weight.dtype() == act_;
    auto packed = is_packed_here ? packer_->pack_bitmap(weight, bound())
                                 : std::make_unique<SparseTiles>(weight, format_of(path), act_, allocator_, pool_);
    linear_.note_weight(*packed);
    return packed;
  }

  std::unique_ptr<PackedWeight> do_pack_random(const RandomWeight& weight) override {
    if (keeps(weight.dtype, weight.cols, weight.cols)) {
      auto packed = std::make_unique<ByteTiles>(weight, allocator_, bound());
      linear_.note_weight(*packed);
      return packed;
    }
    if (weight.dtype != act_) return Ops::do_pack_random(weight);
    if (!weight.is_sparse) return std::make_unique<DenseWeight>(weight, allocator_, bound());
    auto packed = std::make_unique<SparseTiles>(weight, allocator_, bound());
    linear_.note_weight(*packed);
    return packed;
  }

  void do_copy(const Tensor& out, const Tensor& in) override {
    const auto bytes = static_cast<std::size_t>(in.nbytes());
    const cudaStream_t stream = bound();
    if (in.device() == Device{} && bytes <= kStagingBytes) {
      staging_.upload(out.raw(), in.raw(), bytes, stream);
      return;
    }
    if (in.device() == Device{} && packer_) {
      packer_->upload(out.raw(), in.raw(), bytes, stream);
      return;
    }
    check_status(cudaMemcpyAsync(out.raw(), in.raw(), bytes, cudaMemcpyDefault, stream), "copy (cudaMemcpyAsync)");
    if (in.device() == Device{}) synchronize();  // the host's memory may change on return
  }

  void do_embedding(const Tensor& out, const Tensor& table, const Tensor& ids, std::int64_t row_begin, bool accumulate) override {
    EmbeddingParams p;
    p.overlaps = limits_.dependent_launch;
    p.out = out.raw();
    p.table = table.raw();
    p.ids = ids.data<const std::int32_t>();
    p.n = out.size(0);
    p.size = out.size(1);
    p.rows = table.size(0);
    p.row_begin = row_begin;
    p.out_stride = out.stride(0);
    p.table_stride = table.stride(0);
    p.accumulate = accumulate;
    check_status(launch_embedding(p, act_, table.dtype(), bound()), "embedding");
  }

  void do_rms_norm(const Tensor& out, const Tensor& x, const Tensor& weight, float eps) override { norm(out, x, weight, {}, eps); }
  void do_layer_norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) override {
    norm(out, x, weight, bias, eps);
  }

  void do_linear(const Tensor& out, const Tensor& x, const PackedWeight& weight, const Epilogue& epilogue) override {
    linear_.apply(out, x, weight, epilogue, bound());
  }

  void do_gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) override {
    GatedParams p;
    p.overlaps = limits_.dependent_launch;
    p.out = out.raw();
    p.gate_up = gate_up.raw();
    p.n = out.size(0);
    p.size = out.size(1);
    p.out_stride = out.stride(0);
    p.in_stride = gate_up.stride(0);
    p.act = static_cast<Act>(activation);
    check_status(launch_gated(p, act_, bound()), "gated_activation");
  }

  void do_rope_and_write_kv(const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                            const Batch& batch) override {
    RopeKvParams p;
    p.overlaps = limits_.dependent_launch;
    p.q = q.raw();
    p.k = k.raw();
    p.v = v.raw();
    p.keys = kv.keys.raw();
    p.values = kv.values.raw();
    p.slots = batch.slots.data<const std::int32_t>();
    if (rope != nullptr) {
      p.cos = rope->cos.data<const float>();
      p.sin = rope->sin.data<const float>();
      p.positions = batch.positions.data<const std::int32_t>();
      p.rotary_half = static_cast<std::int32_t>(rope->cos.size(1));
    }
    p.q_token = q.stride(0);
    p.q_head = q.stride(1);
    p.k_token = k.stride(0);
    p.k_head = k.stride(1);
    p.v_token = v.stride(0);
    p.v_head = v.stride(1);
    p.n = static_cast<std::int32_t>(batch.num_tokens);
    p.num_heads = static_cast<std::int32_t>(q.size(1));
    p.num_kv_heads = static_cast<std::int32_t>(k.size(1));
    p.head_dim = static_cast<std::int32_t>(k.size(2));
    p.block_size = static_cast<std::int32_t>(kv.keys.size(2));
    check_status(launch_rope_kv(p, act_, kv.keys.dtype(), bound()), "rope_and_write_kv");
  }

  void do_attention(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch, const AttentionParams& params) override {
    PagedAttentionParams p = attention_params(out, q, kv, batch, params);
    if (!batch_invariant_) return attend_batch(p, kv.keys.dtype(), batch);
    // One kernel for every token, as if each were alone; in runs, so that their partial sums stay small.
    const std::int64_t splits = batch.max_context_len / kSplitTokens + 1;
    const auto run = static_cast<std::int32_t>(std::max<std::int64_t>(1, kMostPartials / (splits * p.num_heads * (p.head_dim + 2))));
    const std::int32_t end = p.n;
    for (; p.first_token < end; p.first_token += run) {
      p.n = std::min(run, end - p.first_token);
      attend(p, kv.keys.dtype(), 1, batch.max_context_len, nullptr);
      p.q = static_cast<const std::uint16_t*>(p.q) + p.n * p.q_token;
      p.out = static_cast<std::uint16_t*>(p.out) + p.n * p.out_token;
    }
  }

  void do_attend(const Tensor& out, const Tensor& q, const Tensor& k, const Tensor& v, const RopeTable* rope, const KvLayer& kv,
                 const Batch& batch, const AttentionParams& params) override {
    if (batch_invariant_) return Ops::do_attend(out, q, k, v, rope, kv, batch, params);
    const PagedAttentionParams p = attention_params(out, q, kv, batch, params);
    NewTokenParams fresh;
    fresh.k = k.raw();
    fresh.v = v.raw();
    if (rope != nullptr) {
      fresh.cos = rope->cos.data<const float>();
      fresh.sin = rope->sin.data<const float>();
      fresh.positions = batch.positions.data<const std::int32_t>();
    }
    fresh.slots = batch.slots.data<const std::int32_t>();
    fresh.keys = kv.keys.raw();
    fresh.values = kv.values.raw();
    fresh.k_token = k.stride(0);
    fresh.k_head = k.stride(1);
    fresh.v_token = v.stride(0);
    fresh.v_head = v.stride(1);
    const AttentionPlan plan = plan_attention(p, act_, kv.keys.dtype(), batch.max_query_len, batch.max_context_len);
    const std::int64_t half = rope != nullptr ? rope->cos.size(1) : 0;
    if (takes_new_tokens(p, plan, batch.max_query_len, fresh, static_cast<std::int32_t>(half))) {
      attend(p, kv.keys.dtype(), batch.max_query_len, batch.max_context_len, &fresh);
    } else {
      Ops::do_attend(out, q, k, v, rope, kv, batch, params);
    }
  }

  void do_gather_rows(const Tensor& out, const Tensor& x, const Tensor& rows) override {
    GatherParams p;
    p.overlaps = limits_.dependent_launch;
    p.out = out.raw();
    p.x = x.raw();
    p.rows = rows.data<const std::int32_t>();
    p.n = out.size(0);
    p.size = out.size(1);
    p.out_stride = out.stride(0);
    p.x_stride = x.stride(0);
    check_status(launch_gather(p, act_, bound()), "gather_rows");
  }

  void do_add(const Tensor& x, const Tensor& y) override {
    AddParams p;
    p.overlaps = limits_.dependent_launch;
    p.x = x.raw();
    p.y = y.raw();
    p.n = x.size(0);
    p.size = x.size(1);
    p.x_stride = x.stride(0);
    p.y_stride = y.stride(0);
    check_status(launch_add(p, act_, bound()), "add");
  }

  void do_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result) override {
    sampler_.begin(logits, batch, result, {}, bound());
    sampler_.finish();
  }
  void do_begin_sample(const Tensor& logits, const SampleBatch& batch, const SampleResult& result, const Tensor& tokens) override {
    sampler_.begin(logits, batch, result, tokens, bound());
  }
  void do_take_tokens(const Tensor& ids, const Tensor& rows, const Tensor& tokens) override {
    TakeParams p;
    p.ids = ids.data<std::int32_t>();
    p.rows = rows.data<const std::int32_t>();
    p.tokens = tokens.data<const std::int32_t>();
    p.n = ids.size(0);
    check_status(launch_take(p, bound()), "take_tokens");
  }

 public:
  // The stream, with its device made this thread's own: any thread may call a verb.
  cudaStream_t bound() const {
    check_status(cudaSetDevice(device_.index), "cudaSetDevice");
    return stream_.get();
  }

 private:
  PagedAttentionParams attention_params(const Tensor& out, const Tensor& q, const KvLayer& kv, const Batch& batch,
                                        const AttentionParams& params) const {
    if (q.size(2) > kMaxHeadDim) {
      throw InvalidArgument("attention: head_dim = " + std::to_string(q.size(2)) + "; this backend has at most " +
                            std::to_string(kMaxHeadDim));
    }
    PagedAttentionParams p;
    p.overlaps = limits_.dependent_launch;
    p.q = q.raw();
    p.out = out.raw();
    p.keys = kv.keys.raw();
    p.values = kv.values.raw();
    p.query_start = batch.query_start.data<const std::int32_t>();
    p.context_len = batch.context_len.data<const std::int32_t>();
    p.block_table = batch.block_table.data<const std::int32_t>();
    p.table_stride = batch.block_table.stride(0);
    p.q_token = q.stride(0);
    p.q_head = q.stride(1);
    p.out_token = out.stride(0);
    p.out_head = out.stride(1);
    p.n = static_cast<std::int32_t>(q.size(0));
    p.num_seqs = static_cast<std::int32_t>(batch.num_seqs);
    p.num_heads = static_cast<std::int32_t>(q.size(1));
    p.num_kv_heads = static_cast<std::int32_t>(kv.keys.size(1));
    p.head_dim = static_cast<std::int32_t>(q.size(2));
    p.block_size = static_cast<std::int32_t>(kv.keys.size(2));
    p.window = static_cast<std::int32_t>(params.sliding_window);
    p.scale_log2 = static_cast<float>(params.scale * kLog2E);
    return p;
  }

  // With prompts beside them, decodes keep a kernel of their own: a block of the other would go through a whole context for one of them.
  void attend_batch(const PagedAttentionParams& p, DType kv, const Batch& batch) {
    const auto decodes = static_cast<std::int32_t>(batch.num_decodes);
    const AttentionPlan plan = plan_attention(p, act_, kv, batch.max_query_len, batch.max_context_len);
    if (decodes == 0 || decodes == p.num_seqs || plan.kernel != AttentionKernel::prefill) {
      attend(p, kv, batch.max_query_len, batch.max_context_len, nullptr);
      return;
    }
    PagedAttentionParams front = p, rest = p;
    front.n = front.num_seqs = decodes;
    rest.n -= decodes;
    rest.num_seqs -= decodes;
    rest.query_start += decodes;  // its tokens count from the batch's first, as q and out do
    rest.context_len += decodes;
    rest.block_table += decodes * rest.table_stride;
    attend(front, kv, 1, batch.max_context_len, nullptr);
    attend(rest, kv, batch.max_query_len, batch.max_context_len, nullptr);
  }

  void attend(PagedAttentionParams p, DType kv, std::int64_t max_query_len, std::int64_t max_context_len, const NewTokenParams* fresh) {
    const AttentionPlan plan = plan_attention(p, act_, kv, max_query_len, max_context_len);
    p.num_splits = plan.num_splits;
    if (plan.partial_floats > 0) {
      p.partials = static_cast<float*>(partials_.reserve(static_cast<std::size_t>(plan.partial_floats) * sizeof(float)));
    }
    check_status(launch_attention(p, plan, act_, kv, bound(), fresh), "attention");
  }

  // Whether weights of such values stay 8 bits wide.
  bool keeps(DType dtype, std::int64_t group, std::int64_t cols) const {
    return eight_bit_ != EightBit::off && ByteTiles::holds(dtype, group, cols);
  }
  std::unique_ptr<PackedWeight> pack_bytes(const SparseWeight& weight) {
    bound();
    auto packed = std::make_unique<ByteTiles>(weight, allocator_, pool_);
    linear_.note_weight(*packed);
    return packed;
  }

  void norm(const Tensor& out, const Tensor& x, const Tensor& weight, const Tensor& bias, float eps) {
    const bool is_flat = x.rank() == 2;
    NormParams p;
    p.overlaps = limits_.dependent_launch;
    p.out = out.raw();
    p.x = x.raw();
    p.weight = weight.raw();
    p.bias = bias.raw();
    p.inner = is_flat ? 1 : x.size(1);
    p.vectors = x.size(0) * p.inner;
    p.size = weight.size(0);
    p.x_outer = x.stride(0);
    p.x_inner = is_flat ? 0 : x.stride(1);
    p.out_outer = out.stride(0);
    p.out_inner = is_flat ? 0 : out.stride(1);
    p.eps = eps;
    check_status(launch_norm(p, act_, bound()), bias.defined() ? "layer_norm" : "rms_norm");
  }

  Device device_;
  DType act_;
  EightBit eight_bit_;
  std::string name_;
  Stream stream_;
  DeviceLimits limits_;
  CudaAllocator allocator_;
  PinnedAllocator pinned_;
  Staging staging_;
  ThreadPool pool_;                     // packs weights
  std::optional<WeightPacker> packer_;  // candidate "pack": weights packed on the device
  Workspace partials_;
  bool batch_invariant_;
  CudaLinear linear_;
  CudaSampler sampler_;
  Graphs graphs_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(int device_index, DType activation_dtype, const BackendOptions& options) {
  const BackendProbe probe = probe_devices();
  const auto count = static_cast<int>(probe.devices.size());
  if (device_index >= count) {
    throw DeviceError("device 'cuda:" + std::to_string(device_index) + "': this machine has " + std::to_string(count) +
                      (count == 1 ? " GPU" : " GPUs") + "; the first is cuda:0");
  }
  require(activation_dtype == DType::f16 || activation_dtype == DType::bf16,
          "dtype must be auto, float16 or bfloat16 on a GPU, not '" + std::string(name_of(activation_dtype)) + "'");
  const std::string& name = probe.devices[static_cast<std::size_t>(device_index)].name;
  CostTable table = options.cost_table.empty() ? CostTable::h100() : read_cost_table(options.cost_table, name);
  return std::make_unique<CudaOps>(device_index, activation_dtype, name, options, std::move(table));
}

cudaStream_t bound_stream(Ops& ops) {
  const auto* cuda_ops = dynamic_cast<const CudaOps*>(&ops);
  check(cuda_ops != nullptr, "a CUDA communicator is for CUDA's Ops");
  return cuda_ops->bound();
}

}  // namespace gossamer::cuda
