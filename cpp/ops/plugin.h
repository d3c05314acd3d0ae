// Backends that live in shared libraries of their own (libgossamer_cuda.so beside libgossamer.so), loaded only when asked for, so
// that one package runs everywhere. A plugin exports one C function, `gossamer_backend_plugin`, which returns a BackendPlugin.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "ops/ops.h"

namespace gossamer {

class Communicator;  // comm/communicator.h
class RankGroup;     // comm/rank_group.h

struct DeviceDescription {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  std::string uuid;  // of this very device: 32 hexadecimal digits
  int capability_major = 0;
  int capability_minor = 0;
  std::int64_t memory_bytes = 0;
  int num_multiprocessors = 0;
};

// What the machine and the build have. Versions are as CUDA counts them, 13000 = 13.0; 0 = not there.
struct BackendProbe {
  int driver_version = 0;
  int runtime_version = 0;
  std::string architectures;  // that the build has code for: "80;90a"
  std::vector<DeviceDescription> devices;
};

struct CommunicatorOptions {
  bool one_shot = false;  // small sums and gathers over peer memory, by the backend's own kernels
};

// What a GPU does with weights whose values have 8 bits and one scale a row.
enum class EightBit : std::uint8_t {
  off,         // they become halves at load
  weights,     // they stay 8 bits wide; activations are halves
  activations  // of i8 weights, too, 8 bits wide, with a scale per token
};

struct BackendOptions {
  bool batch_invariant = false;  // an output's bits depend on its own inputs, never on what else is in the batch; slower
  std::string cost_table;        // file with times of this device (docs/kernel-notes.md), for choosing kernels; empty: what is built in
  EightBit eight_bit = EightBit::off;  // not with batch_invariant
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Throws DeviceError, with the versions found, when there is no usable driver or device.
  virtual BackendProbe probe() const = 0;
  // Also throws InvalidArgument for a cost table that cannot be read, naming file and line.
  virtual std::unique_ptr<Ops> create_ops(int device_index, DType activation_dtype, const BackendOptions& options = {}) const = 0;
  // Measures kernels on the device, for one to two minutes; the text of a cost table. progress, if given, hears what is measured next.
  virtual std::string tune(int device_index, const std::function<void(const std::string& what)>& progress) const = 0;
  // Among the group's ranks, each with its own device; `ops` is this backend's. Collective. Both must outlive it.
  virtual std::unique_ptr<Communicator> create_communicator(Ops& ops, RankGroup& group, const CommunicatorOptions& options) const = 0;
};

// Plain C data: it is read before anything of the plugin's C++ is trusted.
struct BackendPlugin {
  const char* build_id;         // must equal the loader's
  const Backend* (*backend)();  // lives as long as the process
};
inline constexpr const char* kBackendPluginSymbol = "gossamer_backend_plugin";
using BackendPluginFunction = const BackendPlugin* (*)();

// Version and a digest of the headers and the compiler: what must agree for two libraries to share C++ types.
std::string build_id();

// Loads libgossamer_<name>.so from `directory`, or, when that is empty, from where this library lies. Never unloads it.
// DeviceError: the library is missing, does not load, is no plugin, or comes from another build.
const Backend& load_backend(const std::string& name, const std::string& directory = "");

}  // namespace gossamer
