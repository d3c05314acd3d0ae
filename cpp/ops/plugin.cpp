#include "ops/plugin.h"

#include <dlfcn.h>

#include <filesystem>

#include "build_id.h"  // made by CMake
#include "core/error.h"

namespace gossamer {

namespace {

// The directory of the shared library (or program) that holds this very function.
std::filesystem::path own_directory() {
  Dl_info info{};
  check(dladdr(reinterpret_cast<const void*>(&build_id), &info) != 0 && info.dli_fname != nullptr, "dladdr knows our own address");
  return std::filesystem::path(info.dli_fname).parent_path();
}

std::string last_dl_error() {
  const char* text = dlerror();
  return text != nullptr ? text : "unknown reason";
}

}  // namespace

std::string build_id() { return kBuildId; }

const Backend& load_backend(const std::string& name, const std::string& directory) {
  const std::string file = "libgossamer_" + name + ".so";
  const std::filesystem::path path = (directory.empty() ? own_directory() : std::filesystem::path(directory)) / file;
  if (!std::filesystem::exists(path)) {
    throw DeviceError("the '" + name + "' backend is not in this build (no " + file + " beside libgossamer.so, build " + build_id() +
                      "); use device='cpu', or install Gossamer again where its toolkit (for cuda: nvcc) is found");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw DeviceError(file + " does not load: " + last_dl_error() + "; install Gossamer again, or use device='cpu'");
  const auto plugin_function = reinterpret_cast<BackendPluginFunction>(dlsym(library, kBackendPluginSymbol));
  if (plugin_function == nullptr) {
    const std::string reason = last_dl_error();
    dlclose(library);
    throw DeviceError(file + " is not a Gossamer backend: " + reason + "; install Gossamer again, or use device='cpu'");
  }
  const BackendPlugin* plugin = plugin_function();
  if (build_id() != plugin->build_id) {
    const std::string found = plugin->build_id;
    dlclose(library);
    throw DeviceError(file + " comes from another build: it is " + found + ", this is " + build_id() +
                      "; remove it or install Gossamer again, or use device='cpu'");
  }
  return *plugin->backend();
}

}  // namespace gossamer
