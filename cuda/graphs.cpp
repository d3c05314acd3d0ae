#include "graphs.h"

#include "status.h"

namespace gossamer::cuda {
namespace {

// Ends the recording however the scope ends.
class Recording {
 public:
  explicit Recording(cudaStream_t stream) : stream_(stream) {
    check_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }
  ~Recording() {
    if (is_open_) static_cast<void>(end());  // fn threw: its error is the one to report
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  cudaGraphExec_t instantiate() {
    check_status(end(), "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    check_status(cudaGraphInstantiate(&executable, graph_, 0), "cudaGraphInstantiate");
    return executable;
  }

 private:
  cudaError_t end() {
    is_open_ = false;
    return cudaStreamEndCapture(stream_, &graph_);
  }

  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool is_open_ = true;
};

}  // namespace

void Graphs::clear() {
  for (const auto& [key, graph] : graphs_) {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  }
  graphs_.clear();
}

void Graphs::run(std::uint64_t key, const std::function<void()>& fn, cudaStream_t stream) {
  const auto [found, is_new] = graphs_.try_emplace(key, nullptr);
  if (is_new) {
    fn();
    return;
  }
  if (found->second == nullptr) {
    Recording recording(stream);
    fn();
    found->second = recording.instantiate();
  }
  check_status(cudaGraphLaunch(found->second, stream), "cudaGraphLaunch");
}

}  // namespace gossamer::cuda
