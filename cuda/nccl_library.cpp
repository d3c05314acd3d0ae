#include "nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "core/error.h"

namespace gossamer::cuda {
namespace {

// The library's C interface, as far as it is used here. Results and types have had these values since version 2.0.
constexpr int kSuccess = 0, kInProgress = 7;
constexpr int kUint8 = 1, kFloat16 = 6, kFloat32 = 7, kBfloat16 = 9;
constexpr int kSum = 0;

// ncclConfig_t as of 2.14, the first version; later ones take the rest from their defaults.
struct Config {
  std::size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21400;
  int blocking = 0;
};
static_assert(sizeof(Config) == 24);

int type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return kFloat32;
    case DType::f16: return kFloat16;
    case DType::bf16: return kBfloat16;
    default: throw InternalError("NCCL moves floating-point activations only");
  }
}

// Where a wheel puts the library, seen from this plugin's own folder; then what the system knows.
std::vector<std::string> candidates() {
  std::vector<std::string> names;
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&type_of), &info) != 0 && info.dli_fname != nullptr) {
    const std::string path = info.dli_fname;
    names.push_back(path.substr(0, path.rfind('/') + 1) + "../nvidia/nccl/lib/libnccl.so.2");
  }
  names.emplace_back("libnccl.so.2");
  return names;
}

template <typename Function>
void find(void* library, const char* name, Function& out) {
  out = reinterpret_cast<Function>(dlsym(library, name));
  if (out == nullptr) throw DeviceError(std::string("this NCCL is too old: it has no ") + name + "; install 2.14 or newer");
}

}  // namespace

struct NcclLibrary::Calls {
  int (*version)(int*) = nullptr;
  int (*unique_id)(NcclUniqueId*) = nullptr;
  int (*init)(Comm*, int, NcclUniqueId, int, Config*) = nullptr;
  int (*all_reduce)(const void*, void*, std::size_t, int, int, Comm, cudaStream_t) = nullptr;
  int (*all_gather)(const void*, void*, std::size_t, int, Comm, cudaStream_t) = nullptr;
  int (*broadcast)(const void*, void*, std::size_t, int, int, Comm, cudaStream_t) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*async_error)(Comm, int*) = nullptr;
  int (*abort)(Comm) = nullptr;
  const char* (*error_string)(int) = nullptr;
  const char* (*last_error)(Comm) = nullptr;
};

NcclLibrary& NcclLibrary::load() {
  static NcclLibrary library;
  return library;
}

NcclLibrary::NcclLibrary() {
  // NVLink multicast (NVLS) stays off unless asked for: a process that dies with it in use can leave the links unusable for others.
  ::setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* library = nullptr;
  std::string reasons;
  for (const std::string& path : candidates()) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    reasons += std::string("\n  ") + dlerror();
  }
  if (library == nullptr) {
    throw DeviceError("several ranks on GPUs need NCCL, which does not load:" + reasons +
                      "\nInstall it (pip install nvidia-nccl-cu13, or the system's libnccl2), or use device='cpu'");
  }
  auto calls = std::make_unique<Calls>();
  find(library, "ncclGetVersion", calls->version);
  find(library, "ncclGetUniqueId", calls->unique_id);
  find(library, "ncclCommInitRankConfig", calls->init);
  find(library, "ncclAllReduce", calls->all_reduce);
  find(library, "ncclAllGather", calls->all_gather);
  find(library, "ncclBroadcast", calls->broadcast);
  find(library, "ncclGroupStart", calls->group_start);
  find(library, "ncclGroupEnd", calls->group_end);
  find(library, "ncclCommGetAsyncError", calls->async_error);
  find(library, "ncclCommAbort", calls->abort);
  find(library, "ncclGetErrorString", calls->error_string);
  find(library, "ncclGetLastError", calls->last_error);
  calls_ = calls.release();  // as long as the process, like the library
}

std::string NcclLibrary::version() const {
  int number = 0;
  calls_->version(&number);
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

void NcclLibrary::require_begun(int result, const char* call) const {
  if (result == kSuccess || result == kInProgress) return;
  throw DeviceError(std::string("NCCL ") + version() + ", " + call + ": " + calls_->error_string(result) + " (" +
                    calls_->last_error(nullptr) + "); set NCCL_DEBUG=INFO to see more");
}

NcclUniqueId NcclLibrary::make_unique_id() const {
  NcclUniqueId id;
  require_begun(calls_->unique_id(&id), "ncclGetUniqueId");
  return id;
}

NcclLibrary::Comm NcclLibrary::init(int size, const NcclUniqueId& id, int rank) const {
  Config config;
  Comm comm = nullptr;
  require_begun(calls_->init(&comm, size, id, rank, &config), "ncclCommInitRankConfig");
  return comm;
}

void NcclLibrary::all_reduce_sum(void* data, std::size_t count, DType dtype, Comm comm, cudaStream_t stream) const {
  require_begun(calls_->all_reduce(data, data, count, type_of(dtype), kSum, comm, stream), "ncclAllReduce");
}

void NcclLibrary::all_gather(const void* part, void* all, std::size_t count, DType dtype, Comm comm, cudaStream_t stream) const {
  require_begun(calls_->all_gather(part, all, count, type_of(dtype), comm, stream), "ncclAllGather");
}

void NcclLibrary::broadcast(void* data, std::size_t bytes, int root, Comm comm, cudaStream_t stream) const {
  require_begun(calls_->broadcast(data, data, bytes, kUint8, root, comm, stream), "ncclBroadcast");
}

void NcclLibrary::group_start() const { require_begun(calls_->group_start(), "ncclGroupStart"); }
void NcclLibrary::group_end() const { require_begun(calls_->group_end(), "ncclGroupEnd"); }

NcclLibrary::State NcclLibrary::state(Comm comm, std::string& error) const {
  int result = kSuccess;
  const int asked = calls_->async_error(comm, &result);
  if (asked != kSuccess) result = asked;
  if (result == kSuccess) return State::ready;
  if (result == kInProgress) return State::in_progress;
  error = std::string(calls_->error_string(result)) + " (" + calls_->last_error(comm) + ")";
  return State::failed;
}

void NcclLibrary::abort(Comm comm) const { calls_->abort(comm); }

}  // namespace gossamer::cuda
