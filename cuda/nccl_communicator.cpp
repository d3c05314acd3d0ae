#include "nccl_communicator.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "cuda_ops.h"
#include "nccl_library.h"
#include "peer_exchange.h"

namespace gossamer::cuda {
namespace {

constexpr std::chrono::milliseconds kWatch{50};
constexpr std::int64_t kRowsAtOnce = 64;  // of NCCL's all_gather_last, in one launch
// Of a sum. Larger ones are NCCL's, which does not send every rank's whole message to every other.
constexpr std::int64_t kMostOneShotBytes = std::int64_t{512} << 10;

// What rank 0 makes and all others must know.
NcclUniqueId shared_id(NcclLibrary& nccl, RankGroup& group) {
  NcclUniqueId id;
  std::vector<std::byte> message;
  if (group.leads()) {
    id = nccl.make_unique_id();
    const auto bytes = std::as_bytes(std::span(id.bytes));
    message.assign(bytes.begin(), bytes.end());
  }
  group.broadcast(message);
  check(message.size() == id.bytes.size(), "the ranks disagree on NCCL's unique id");
  std::memcpy(id.bytes.data(), message.data(), message.size());
  return id;
}

std::unique_ptr<PeerExchange> make_peers(RankGroup& group, Ops& ops) {
  std::unique_ptr<PeerExchange> peers = PeerExchange::make(group, ops.allocator());
  if (peers) return peers;
  throw DeviceError("all_reduce='one-shot' needs up to " + std::to_string(kMaxPeers) +
                    " GPUs of one host that reach each other's memory (nvidia-smi topo -p2p r), and these do not; use all_reduce='nccl'");
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Ops& ops, RankGroup& group, bool one_shot) : nccl_(NcclLibrary::load()), ops_(ops), group_(group) {
    const NcclUniqueId id = shared_id(nccl_, group);
    bound_stream(ops);  // NCCL takes the thread's device
    comm_ = nccl_.init(group.size(), id, group.rank());
    try {
      wait_until_ready();
      if (one_shot) peers_ = make_peers(group, ops);
    } catch (...) {
      nccl_.abort(comm_);
      throw;
    }
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclCommunicator() override {
    {
      const std::lock_guard lock(mutex_);
      is_closing_ = true;
    }
    changed_.notify_one();
    watcher_.join();
    if (is_aborted_) return;
    try {
      ops_.synchronize();
    } catch (const std::exception&) {  // aborting is all that is left to do
    }
    ops_.forget_recordings();  // NCCL waits for graphs that hold its collectives, for ever
    nccl_.abort(comm_);        // with nothing under way; unlike ncclCommDestroy it does not wait for the other ranks
  }

  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }

  void all_reduce_sum(Ops& ops, const Tensor& x) override {
    check(x.is_contiguous(), "NcclCommunicator sums contiguous tensors");
    if (x.numel() == 0) return;
    const cudaStream_t stream = bound_stream(ops);
    if (peers_ && PeerExchange::sums(x, kMostOneShotBytes)) {
      group_.require_alive();
      peers_->all_reduce_sum(x, stream);
    } else {
      run([&] { nccl_.all_reduce_sum(x.raw(), static_cast<std::size_t>(x.numel()), x.dtype(), comm_, stream); });
    }
  }

  // NCCL does it row by row, so that each lands where it belongs, and makes one launch of a group's calls.
  void all_gather_last(Ops& ops, const Tensor& out, const Tensor& part) override {
    check(out.dtype() == part.dtype() && out.size(0) == part.size(0) && out.size(1) == size() * part.size(1),
          "NcclCommunicator::all_gather_last wants out [n, ranks * c] for parts [n, c]");
    const cudaStream_t stream = bound_stream(ops);
    if (peers_ && out.is_contiguous() && part.is_contiguous() && PeerExchange::gathers(part)) {
      group_.require_alive();
      peers_->all_gather_last(out, part, stream);
      return;
    }
    const auto count = static_cast<std::size_t>(part.size(1));
    for (std::int64_t first = 0; first < part.size(0); first += kRowsAtOnce) {
      run([&] {
        nccl_.group_start();
        for (std::int64_t row = first; row < std::min(first + kRowsAtOnce, part.size(0)); ++row) {
          nccl_.all_gather(part.rows(row, row + 1).raw(), out.rows(row, row + 1).raw(), count, part.dtype(), comm_, stream);
        }
        nccl_.group_end();
      });
    }
  }

  void broadcast(Ops& ops, const Tensor& x, int root) override {
    check(x.is_contiguous(), "NcclCommunicator::broadcast wants a contiguous tensor");
    const cudaStream_t stream = bound_stream(ops);
    run([&] { nccl_.broadcast(x.raw(), static_cast<std::size_t>(x.nbytes()), root, comm_, stream); });
  }

  void barrier() override {
    ops_.synchronize();
    group_.barrier();
  }

 private:
  // Puts a collective on the stream.
  template <class Collective>
  void run(const Collective& collective) {
    group_.require_alive();
    {
      const std::lock_guard lock(calls_);
      require_not_aborted();
      collective();
    }
    wait_until_ready();
  }

  void require_not_aborted() const {
    if (!is_aborted_) return;
    group_.require_alive();
    throw EngineDeadError("the ranks have ended: NCCL was aborted");
  }

  // Until the last call has been put on the stream; almost always that is so already.
  void wait_until_ready() {
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
      group_.require_alive();
      std::string error;
      const NcclLibrary::State state = look(error);
      if (state == NcclLibrary::State::ready) return;
      const bool is_late = std::chrono::steady_clock::now() - start > group_.watchdog();
      if (is_late) error = "no answer from the other ranks within watchdog_seconds";
      if (is_late || state == NcclLibrary::State::failed) {
        fail(error);
        group_.require_alive();
      }
      std::this_thread::yield();
    }
  }

  NcclLibrary::State look(std::string& error) {
    const std::lock_guard lock(calls_);
    require_not_aborted();
    return nccl_.state(comm_, error);
  }

  void fail(const std::string& error) { group_.fail("NCCL " + nccl_.version() + " on rank " + std::to_string(rank()) + ": " + error); }

  void watch() {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kWatch, [this] { return is_closing_; })) {
      std::string error;
      if (look(error) == NcclLibrary::State::failed) fail(error);
      try {
        group_.require_alive();
      } catch (const EngineDeadError&) {
        lock.unlock();
        end();
        return;
      }
    }
  }

  // Ends the kernels that wait for a rank that is gone. Where steps are recorded it does not come back, because NCCL then waits for the
  // graphs: the group's monitor ends the process.
  void end() {
    if (peers_) peers_->end();
    const std::lock_guard lock(calls_);
    is_aborted_ = true;
    nccl_.abort(comm_);
  }

  NcclLibrary& nccl_;
  Ops& ops_;
  RankGroup& group_;
  NcclLibrary::Comm comm_ = nullptr;
  std::unique_ptr<PeerExchange> peers_;  // null: NCCL does it all
  std::mutex calls_;                     // held over every use of comm_, which abort() frees
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_closing_ = false;
  std::atomic<bool> is_aborted_ = false;
  std::thread watcher_;  // last: uses the others
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Ops& ops, RankGroup& group, const CommunicatorOptions& options) {
  return std::make_unique<NcclCommunicator>(ops, group, options.one_shot);
}

}  // namespace gossamer::cuda
