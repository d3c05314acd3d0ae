#include "comm/mpi_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/error.h"

namespace gossamer {

namespace {

constexpr int kThreadSerialized = 2;  // one thread at a time, in both ABIs

// Numbers of the MPICH ABI, which Intel MPI, MVAPICH and Cray MPICH share.
constexpr std::uintptr_t kMpichWorld = 0x44000000;
constexpr std::uintptr_t kMpichByte = 0x4c00010d;

// The launcher's own library first: the parent of a rank is mpirun or its daemon, and <prefix>/lib lies beside <prefix>/bin.
std::vector<std::string> candidates(const std::string& launcher) {
  const std::vector<std::string> open_mpi{"libmpi.so.40", "libmpi.so.20"};
  const std::vector<std::string> mpich{"libmpi.so.12", "libmpich.so.12"};
  std::vector<std::string> names = launcher == "MPICH" ? mpich : open_mpi;
  if (launcher == "Slurm") names.insert(names.end(), mpich.begin(), mpich.end());
  std::vector<std::string> paths;
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::read_symlink("/proc/" + std::to_string(getppid()) + "/exe", error);
  if (!error) {
    for (const std::string& name : names) {
      const std::filesystem::path path = parent.parent_path().parent_path() / "lib" / name;
      if (std::filesystem::exists(path, error)) paths.push_back(path.string());
    }
  }
  paths.insert(paths.end(), names.begin(), names.end());
  paths.emplace_back("libmpi.so");
  return paths;
}

template <typename Function>
void find(void* library, const char* name, Function& out, const std::string& path) {
  out = reinterpret_cast<Function>(dlsym(library, name));
  if (out == nullptr) throw DeviceError(path + " is no MPI library that Gossamer knows: it has no " + name);
}

}  // namespace

struct MpiLibrary::Calls {
  using Word = std::uintptr_t;
  int (*initialized)(int*) = nullptr;
  int (*init_thread)(int*, char***, int, int*) = nullptr;
  int (*finalize)() = nullptr;
  int (*comm_rank)(Word, int*) = nullptr;
  int (*comm_size)(Word, int*) = nullptr;
  int (*bcast)(void*, int, Word, int, Word) = nullptr;
  int (*allgather)(const void*, int, Word, void*, int, Word, Word) = nullptr;
  int (*isend)(const void*, int, Word, int, int, Word, Word*) = nullptr;
  int (*irecv)(void*, int, Word, int, int, Word, Word*) = nullptr;
  int (*test)(Word*, int*, void*) = nullptr;
  int (*abort)(Word, int) = nullptr;
};

MpiLibrary& MpiLibrary::load(const std::string& launcher) {
  static MpiLibrary library(launcher);  // MPI itself exists once per process
  return library;
}

MpiLibrary::MpiLibrary(const std::string& launcher) {
  std::string reasons;
  for (const std::string& path : candidates(launcher)) {
    handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);  // global: Open MPI's own components look for its symbols
    if (handle_ != nullptr) {
      path_ = path;
      break;
    }
    reasons += std::string("\n  ") + dlerror();
  }
  if (handle_ == nullptr) {
    throw DeviceError("this process was started by " + launcher + " as one of several ranks, but its MPI library does not load:" + reasons +
                      "\nInstall the library that belongs to the launcher, or put its folder into LD_LIBRARY_PATH");
  }
  auto calls = std::make_unique<Calls>();
  find(handle_, "MPI_Initialized", calls->initialized, path_);
  find(handle_, "MPI_Init_thread", calls->init_thread, path_);
  find(handle_, "MPI_Finalize", calls->finalize, path_);
  find(handle_, "MPI_Comm_rank", calls->comm_rank, path_);
  find(handle_, "MPI_Comm_size", calls->comm_size, path_);
  find(handle_, "MPI_Bcast", calls->bcast, path_);
  find(handle_, "MPI_Allgather", calls->allgather, path_);
  find(handle_, "MPI_Isend", calls->isend, path_);
  find(handle_, "MPI_Irecv", calls->irecv, path_);
  find(handle_, "MPI_Test", calls->test, path_);
  find(handle_, "MPI_Abort", calls->abort, path_);
  // Open MPI's handles are addresses of objects that it exports.
  const void* open_mpi_world = dlsym(handle_, "ompi_mpi_comm_world");
  world_ = open_mpi_world != nullptr ? reinterpret_cast<std::uintptr_t>(open_mpi_world) : kMpichWorld;
  byte_ = open_mpi_world != nullptr ? reinterpret_cast<std::uintptr_t>(dlsym(handle_, "ompi_mpi_byte")) : kMpichByte;
  ignored_status_ = reinterpret_cast<void*>(static_cast<std::uintptr_t>(open_mpi_world != nullptr ? 0 : 1));

  int is_initialized = 0;
  calls->initialized(&is_initialized);
  if (is_initialized == 0) {
    int provided = 0;
    calls->init_thread(nullptr, nullptr, kThreadSerialized, &provided);
    is_ours_ = true;
    if (provided < kThreadSerialized) {
      throw DeviceError(path_ + " was built without support for threads, which Gossamer needs; install another MPI");
    }
  }
  calls->comm_rank(world_, &rank_);
  calls->comm_size(world_, &size_);
  calls_ = calls.release();  // as long as the process, like the library
}

void MpiLibrary::broadcast(void* data, std::size_t bytes) {
  check(bytes <= INT_MAX, "MpiLibrary::broadcast of 2 GiB or more");
  calls_->bcast(data, static_cast<int>(bytes), byte_, 0, world_);
}

void MpiLibrary::all_gather(const void* own, void* all, std::size_t bytes) {
  check(bytes <= INT_MAX, "MpiLibrary::all_gather of 2 GiB or more");
  calls_->allgather(own, static_cast<int>(bytes), byte_, all, static_cast<int>(bytes), byte_, world_);
}

MpiLibrary::Request MpiLibrary::send(const void* data, std::size_t bytes, int to, int tag) {
  check(bytes <= INT_MAX, "MpiLibrary::send of 2 GiB or more");
  Request request = 0;
  calls_->isend(data, static_cast<int>(bytes), byte_, to, tag, world_, &request);
  return request;
}

MpiLibrary::Request MpiLibrary::receive(void* data, std::size_t bytes, int from, int tag) {
  check(bytes <= INT_MAX, "MpiLibrary::receive of 2 GiB or more");
  Request request = 0;
  calls_->irecv(data, static_cast<int>(bytes), byte_, from, tag, world_, &request);
  return request;
}

bool MpiLibrary::test(Request& request) {
  int is_done = 0;
  calls_->test(&request, &is_done, ignored_status_);
  return is_done != 0;
}

void MpiLibrary::finalize() {
  if (is_ours_) calls_->finalize();
}

void MpiLibrary::abort(int exit_code) { calls_->abort(world_, exit_code); }

}  // namespace gossamer
