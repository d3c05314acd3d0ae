// The plugin's one exported function and the backend behind it.
#include "build_id.h"
#include "cuda_ops.h"
#include "cuda_tune.h"
#include "launch/device_probe.h"
#include "nccl_communicator.h"
#include "ops/plugin.h"

namespace gossamer::cuda {

namespace {

class CudaBackend final : public Backend {
 public:
  BackendProbe probe() const override { return probe_devices(); }

  std::unique_ptr<Ops> create_ops(int device_index, DType activation_dtype, const BackendOptions& options) const override {
    return make_cuda_ops(device_index, activation_dtype, options);
  }

  std::string tune(int device_index, const std::function<void(const std::string&)>& progress) const override {
    return tune_device(device_index, progress);
  }

  std::unique_ptr<Communicator> create_communicator(Ops& ops, RankGroup& group, const CommunicatorOptions& options) const override {
    return make_nccl_communicator(ops, group, options);
  }
};

const Backend* backend() {
  static const CudaBackend instance;
  return &instance;
}

constexpr BackendPlugin kPlugin{kBuildId, &backend};

}  // namespace

}  // namespace gossamer::cuda

extern "C" __attribute__((visibility("default"))) const gossamer::BackendPlugin* gossamer_backend_plugin() {
  return &gossamer::cuda::kPlugin;
}
