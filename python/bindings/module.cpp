#include <nanobind/stl/function.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <mutex>

#include "bindings.h"
#include "cpu/cpu_ops.h"
#include "interruptible.h"
#include "ops/plugin.h"
#include "runtime.h"

namespace gossamer::python {
namespace {

std::vector<std::string> cpu_isas() {
  std::vector<std::string> names;
  for (const CpuIsa isa : available_cpu_isas()) names.emplace_back(name_of(isa));
  return names;
}

// What the plugin of a device family finds: versions, architectures of the build, devices.
nb::dict probe_backend(const std::string& name) {
  BackendProbe probe;
  {
    const GilRelease release;
    probe = load_backend(name).probe();
  }
  nb::list devices;
  for (const DeviceDescription& device : probe.devices) {
    nb::dict entry;
    entry["name"] = to_str(device.name);
    entry["capability"] = nb::make_tuple(device.capability_major, device.capability_minor);
    entry["memory_bytes"] = device.memory_bytes;
    entry["num_multiprocessors"] = device.num_multiprocessors;
    devices.append(entry);
  }
  nb::dict result;
  result["driver_version"] = probe.driver_version;
  result["runtime_version"] = probe.runtime_version;
  result["architectures"] = to_str(probe.architectures);
  result["devices"] = devices;
  return result;
}

// Measures a cost table; progress(what) hears what is measured and may raise to cancel.
nb::str tune_backend(const std::string& name, int device_index, const std::function<void(const std::string&)>& progress) {
  std::string text, what;
  std::mutex mutex;  // of `what`
  run_interruptible(
      [&](const std::function<void()>& poll) {
        text = load_backend(name).tune(device_index, [&](const std::string& next) {
          {
            const std::lock_guard lock(mutex);
            what = next;
          }
          poll();
        });
      },
      [&] {
        std::string next;
        {
          const std::lock_guard lock(mutex);
          next.swap(what);
        }
        if (progress && !next.empty()) progress(next);
      });
  return to_str(text);
}

}  // namespace

// Importing starts no thread and touches no device.
NB_MODULE(_core, module) {
  module.doc() = "The C++ core of Gossamer. Private: use the gossamer package.";
  register_errors();
  start_log_queue();
  wait_for_calls(0);
  module.def("version", &version, "The version of the core.");
  module.def("supported_architectures", &supported_architectures, "Names of the model architectures that can be loaded.");
  module.def("cpu_isas", &cpu_isas, "Instruction sets with kernels that this CPU has, weakest first.");
  module.def("available_cores", &available_cores, "Cores this process may use (affinity and cgroup quota respected).");
  module.def("build_id", &build_id, "Version and digest of the build; a plugin's must be the same.");
  module.def("probe_backend", &probe_backend, nb::arg("name"), "What a backend plugin (\"cuda\") finds; DeviceError when there is none.");
  module.def("tune_backend", &tune_backend, nb::arg("name"), nb::arg("device_index"), nb::arg("progress").none() = nb::none(),
             "Measures a backend's kernels on a device; the text of a cost table. progress(what) may raise to cancel.");
  module.def("take_log", &take_log, "Log lines since the last call: (level of the logging module, message).");
  module.def("wait_for_calls", &wait_for_calls, nb::arg("timeout_ms"),
             "Waits until no other thread is inside the core: for interpreter exit.");
  bind_runtime(module);
  bind_checkpoint(module);
  bind_layer_stream(module);
  bind_cost(module);
  nb::module_ testing = module.def_submodule("testing", "Parts of the core for tests; may change at any time.");
  bind_testing(testing);
  bind_testing_sparse(testing);
}

}  // namespace gossamer::python
