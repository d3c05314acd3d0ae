#include "cuda_tune.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/thread_pool.h"
#include "cublas_lt.h"
#include "cuda_memory.h"
#include "cuda_ops.h"
#include "cuda_weight.h"
#include "launch/device_probe.h"
#include "launch/expand.h"
#include "launch/spmm.h"
#include "plan/cost_table_text.h"
#include "plan/tune.h"
#include "status.h"

namespace gossamer::cuda {
namespace {

constexpr std::int64_t kElements = std::int64_t{1} << 29;  // of a weight: at 95 % still twice the L2 of an H100
constexpr std::int64_t kPackedRows = 1024;                 // packed on the host, and repeated on the device
constexpr std::int64_t kMostX = std::int64_t{4096} * 16384, kMostOut = std::int64_t{4096} * 32768;
constexpr int kReplays = 7;

// Owns what CUDA's C functions make; cleaned up whichever way a measurement ends.
template <typename T, auto kDestroy>
struct Owned {
  T handle{};
  ~Owned() {
    if (handle != T{}) kDestroy(handle);
  }
};
using Stream = Owned<cudaStream_t, &cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, &cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, &cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, &cudaGraphExecDestroy>;

// Median microseconds of a call, of replays of a graph of `count` calls; call(i) enqueues the i-th.
double time_calls(cudaStream_t stream, int count, const std::function<void(int)>& call) {
  call(0);  // outside of the recording: plans are made and workspaces grow
  Graph graph;
  GraphExec exec;
  check_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "tune (cudaStreamBeginCapture)");
  try {
    for (int i = 0; i < count; ++i) call(i);
  } catch (...) {
    cudaStreamEndCapture(stream, &graph.handle);
    throw;
  }
  check_status(cudaStreamEndCapture(stream, &graph.handle), "tune (cudaStreamEndCapture)");
  check_status(cudaGraphInstantiate(&exec.handle, graph.handle, 0), "tune (cudaGraphInstantiate)");
  Event begin, end;
  check_status(cudaEventCreate(&begin.handle), "tune (cudaEventCreate)");
  check_status(cudaEventCreate(&end.handle), "tune (cudaEventCreate)");
  std::vector<double> us;
  for (int i = 0; i < kReplays + 1; ++i) {
    check_status(cudaEventRecord(begin.handle, stream), "tune (cudaEventRecord)");
    check_status(cudaGraphLaunch(exec.handle, stream), "tune (cudaGraphLaunch)");
    check_status(cudaEventRecord(end.handle, stream), "tune (cudaEventRecord)");
    check_status(cudaEventSynchronize(end.handle), "tune (cudaEventSynchronize)");
    float ms = 0;
    check_status(cudaEventElapsedTime(&ms, begin.handle, end.handle), "tune (cudaEventElapsedTime)");
    if (i > 0) us.push_back(1e3 * static_cast<double>(ms) / count);
  }
  std::nth_element(us.begin(), us.begin() + kReplays / 2, us.end());
  return us[kReplays / 2];
}

// A packed weight whose rows repeat those of a smaller one, on the device: what is read is cold all the same.
struct RepeatedTiles {
  RepeatedTiles(TileFormat format, std::int64_t rows, std::int64_t k, double sparsity, Allocator& allocator, ThreadPool& pool) {
    HostAllocator host;
    const OwnedTensor dense =
        make_random_dense({.rows = kPackedRows, .cols = k, .is_sparse = true, .sparsity = sparsity, .seed = 1}, host, pool);
    const OwnedTiledWeight packed = pack_tiles(sparse_from_dense(dense.view, host).view, format, host, pool);
    view = packed.view;
    view.rows = rows;
    const std::int64_t times = rows / kPackedRows, records = packed.view.num_records(), bytes = packed.view.data.nbytes();
    check(bytes * times / kRecordUnit < std::int64_t{1} << 31, "a weight to tune by fits 32-bit offsets");
    data = Buffer(allocator, static_cast<std::size_t>(bytes * times));
    const auto* first = packed.view.offsets.data<std::int32_t>();
    std::vector<std::int32_t> all;
    for (std::int64_t t = 0; t < times; ++t) {
      check_status(cudaMemcpy(static_cast<std::byte*>(data.data()) + t * bytes, packed.view.data.raw(), static_cast<std::size_t>(bytes),
                              cudaMemcpyHostToDevice),
                   "tune (cudaMemcpy)");
      for (std::int64_t i = 0; i < records; ++i) all.push_back(static_cast<std::int32_t>(first[i] + t * bytes / kRecordUnit));
    }
    all.push_back(static_cast<std::int32_t>(times * bytes / kRecordUnit));
    offsets = Buffer(allocator, all.size() * sizeof(std::int32_t));
    check_status(cudaMemcpy(offsets.data(), all.data(), all.size() * sizeof(std::int32_t), cudaMemcpyHostToDevice), "tune (cudaMemcpy)");
  }

  Buffer data, offsets;
  TiledWeight view;  // its tensors are not set
};

class GpuMeasurer final : public Measurer {
 public:
  GpuMeasurer(int device_index, std::unique_ptr<CublasLt> cublas)
      : limits_(limits_of(device_index)),
        allocator_(device_index),
        cublas_(std::move(cublas)),
        out_(allocator_, static_cast<std::size_t>(kMostOut) * 2),
        library_space_(allocator_, CublasLt::kWorkspaceBytes),
        partials_(allocator_),
        tickets_(allocator_),
        packed_x_(allocator_) {
    check_status(cudaSetDevice(device_index), "cudaSetDevice");
    check_status(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    x_ = std::make_unique<DenseWeight>(RandomWeight{.rows = kMostX / 16384, .cols = 16384}, allocator_, stream_.handle);
  }

  void prepare(ProductPath path, std::int64_t k, double sparsity) override {
    dense_.reset();
    tiles_.reset();
    k_ = k;
    rows_ = kElements / k / kPackedRows * kPackedRows;
    if (path == ProductPath::dense) {
      dense_ = std::make_unique<DenseWeight>(RandomWeight{.rows = rows_, .cols = k}, allocator_, stream_.handle);
    } else {
      tiles_.emplace(format_of(path), rows_, k, sparsity, allocator_, pool_);
    }
    check_status(cudaStreamSynchronize(stream_.handle), "tune");
  }

  double product_us(std::int64_t m, std::int64_t n) override { return dense_ != nullptr ? dense_us(m, n) : sparse_us(m, n); }

  double expansion_us(std::int64_t m) override {
    Buffer out(allocator_, static_cast<std::size_t>(m * k_ * 2));
    ExpandParams params;
    params.data = static_cast<const std::uint8_t*>(tiles_->data.data());
    params.out = out.data();
    params.ldw = k_;
    params.m = static_cast<std::int32_t>(m);
    params.row_blocks = static_cast<std::int32_t>(m / kRecordRows);
    params.records = static_cast<std::int32_t>(tiles_->view.records_per_row_block());
    params.slot_bytes = static_cast<std::uint32_t>(tiles_->view.max_record_bytes + 16);
    return time_calls(stream_.handle, calls(m), [&](int i) {
      params.offsets = offsets_from(i, m);
      check_status(launch_expand(params, tiles_->view.format, limits_.num_sms, stream_.handle), "tune (expansion kernel)");
    });
  }

 private:
  // Calls of a graph: all of the weight once, at least 8 and at most 64 times m rows.
  int calls(std::int64_t m) const { return static_cast<int>(std::clamp<std::int64_t>(rows_ / m, 8, 64)); }
  // The i-th m rows, around the weight.
  std::int64_t first_row(int i, std::int64_t m) const { return i % std::max<std::int64_t>(1, rows_ / m) * m; }
  const std::uint32_t* offsets_from(int i, std::int64_t m) const {
    return static_cast<const std::uint32_t*>(tiles_->offsets.data()) + first_row(i, m) / kRecordRows * tiles_->view.records_per_row_block();
  }

  double dense_us(std::int64_t m, std::int64_t n) {
    LtProblem problem;
    problem.x = x_->data();
    problem.out = out_.data();
    problem.m = m;
    problem.k = problem.ldw = problem.ldx = k_;
    problem.n = n;
    problem.ldo = m;
    return time_calls(stream_.handle, calls(m), [&](int i) {
      problem.weight = static_cast<const std::uint16_t*>(dense_->data()) + first_row(i, m) * k_;
      check(cublas_->run(problem, library_space_.data(), stream_.handle), "cuBLASLt has a kernel for every shape of the grid");
    });
  }

  double sparse_us(std::int64_t m, std::int64_t n) {
    const TiledWeight& w = tiles_->view;
    const SpmmConfig config = plan_spmm({w.format, m, k_, n, w.max_record_bytes, true, {}, false}, limits_);
    SpmmParams params;
    bool is_new = false;
    params.partials = static_cast<float*>(partials_.reserve(static_cast<std::size_t>(config.partial_floats) * sizeof(float)));
    params.tickets =
        static_cast<std::uint32_t*>(tickets_.reserve(static_cast<std::size_t>(config.tickets) * sizeof(std::uint32_t), &is_new));
    if (is_new) check_status(cudaMemsetAsync(params.tickets, 0, tickets_.bytes(), stream_.handle), "tune (cudaMemsetAsync)");
    params.packed_x = static_cast<std::uint8_t*>(packed_x_.reserve(static_cast<std::size_t>(config.packed_x_bytes)));
    params.data = static_cast<const std::uint8_t*>(tiles_->data.data());
    params.x = x_->data();
    params.out = out_.data();
    params.ldx = k_;
    params.ldo = m;
    params.m = static_cast<std::int32_t>(m);
    params.k = static_cast<std::int32_t>(k_);
    params.n = static_cast<std::int32_t>(n);
    params.row_blocks = static_cast<std::int32_t>(m / kRecordRows);
    params.records = static_cast<std::int32_t>(w.records_per_row_block());
    params.slot_bytes = static_cast<std::uint32_t>(config.slot_bytes);
    params.x_is_aligned = true;
    return time_calls(stream_.handle, calls(m), [&](int i) {
      params.offsets = offsets_from(i, m);
      check_status(launch_spmm(params, config, w.format, false, stream_.handle), "tune (sparse kernel)");
    });
  }

  DeviceLimits limits_;
  CudaAllocator allocator_;
  ThreadPool pool_;
  std::unique_ptr<CublasLt> cublas_;
  Stream stream_;
  Buffer out_, library_space_;
  Workspace partials_, tickets_, packed_x_;
  std::unique_ptr<DenseWeight> x_, dense_;
  std::optional<RepeatedTiles> tiles_;
  std::int64_t k_ = 0, rows_ = 0;
};

}  // namespace

std::string tune_device(int device_index, const std::function<void(const std::string& what)>& progress) {
  const BackendProbe probe = probe_devices();
  if (device_index < 0 || device_index >= static_cast<int>(probe.devices.size())) {
    throw DeviceError("device 'cuda:" + std::to_string(device_index) + "': this machine has " + std::to_string(probe.devices.size()) +
                      " GPUs; the first is cuda:0");
  }
  std::string problem;
  std::unique_ptr<CublasLt> cublas = CublasLt::load(problem);
  if (cublas == nullptr) throw DeviceError("tuning compares with cuBLASLt: " + problem);
  GpuMeasurer measurer(device_index, std::move(cublas));
  return to_text(tune({}, measurer, progress), probe.devices[static_cast<std::size_t>(device_index)].name);
}

}  // namespace gossamer::cuda
