#include <cuda_runtime_api.h>

#include <string>

#include "architectures.h"
#include "core/error.h"
#include "launch/device_probe.h"

namespace gossamer::cuda {

namespace {

std::string version_text(int version) {
  return version == 0 ? "none" : std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string uuid_text(const cudaUUID_t& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : uuid.bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text += {kDigits[value / 16], kDigits[value % 16]};
  }
  return text;
}

std::string advice(cudaError_t status) {
  switch (status) {
    case cudaErrorInsufficientDriver: return "install or update the NVIDIA driver";
    case cudaErrorNoDevice: return "check that a GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)";
    default: return "check the driver with nvidia-smi";
  }
}

}  // namespace

BackendProbe probe_devices() {
  BackendProbe probe;
  probe.architectures = kArchitectures;
  cudaRuntimeGetVersion(&probe.runtime_version);
  cudaDriverGetVersion(&probe.driver_version);

  const auto require_ok = [&](cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // not sticky: a later probe may succeed
    throw DeviceError(std::string(call) + ": " + cudaGetErrorName(status) + " (" + std::to_string(static_cast<int>(status)) + "), " +
                      cudaGetErrorString(status) + "; driver's CUDA " + version_text(probe.driver_version) + ", runtime " +
                      version_text(probe.runtime_version) + ", built for " + probe.architectures + "; " + advice(status) +
                      ", or use device='cpu'");
  };

  int count = 0;
  require_ok(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    require_ok(cudaGetDeviceProperties(&properties, i), "cudaGetDeviceProperties");
    probe.devices.push_back({properties.name, uuid_text(properties.uuid), properties.major, properties.minor,
                             static_cast<std::int64_t>(properties.totalGlobalMem), properties.multiProcessorCount});
  }
  return probe;
}

}  // namespace gossamer::cuda
