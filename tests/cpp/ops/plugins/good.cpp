// A backend of the right build, without devices.
#include "build_id.h"
#include "comm/communicator.h"
#include "core/error.h"
#include "ops/plugin.h"

namespace {

class EmptyBackend final : public gossamer::Backend {
 public:
  gossamer::BackendProbe probe() const override { return {.driver_version = 1, .runtime_version = 2, .architectures = "x", .devices = {}}; }
  std::unique_ptr<gossamer::Ops> create_ops(int, gossamer::DType, const gossamer::BackendOptions&) const override {
    throw gossamer::DeviceError("no operations");
  }
  std::string tune(int, const std::function<void(const std::string&)>&) const override { throw gossamer::DeviceError("no device to tune"); }
  std::unique_ptr<gossamer::Communicator> create_communicator(gossamer::Ops&, gossamer::RankGroup&,
                                                              const gossamer::CommunicatorOptions&) const override {
    throw gossamer::DeviceError("no communicator");
  }
};

const gossamer::Backend* backend() {
  static const EmptyBackend instance;
  return &instance;
}

constexpr gossamer::BackendPlugin kPlugin{gossamer::kBuildId, &backend};

}  // namespace

extern "C" const gossamer::BackendPlugin* gossamer_backend_plugin() { return &kPlugin; }
