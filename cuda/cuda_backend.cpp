// The plugin's one exported function and the backend behind it.
#include "build_id.h"
#include "core/error.h"
#include "launch/device_probe.h"
#include "ops/plugin.h"

namespace gossamer::cuda {

namespace {

class CudaBackend final : public Backend {
 public:
  BackendProbe probe() const override { return probe_devices(); }

  std::unique_ptr<Ops> create_ops(int, DType) const override {
    throw DeviceError("device 'cuda': this build finds NVIDIA GPUs but has no operations for them yet; use device='cpu'");
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
