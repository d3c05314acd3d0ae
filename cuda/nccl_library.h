// The few calls of NCCL that ranks need, loaded at run time: a build, and a machine with one GPU, need no NCCL.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <string>

#include "core/dtype.h"

namespace gossamer::cuda {

// Which group it is: made by rank 0, told to all.
struct NcclUniqueId {
  std::array<char, 128> bytes{};
};

class NcclLibrary {
 public:
  using Comm = void*;

  // Version 2.14 or newer: from the wheel beside this library, the system, or where LD_LIBRARY_PATH says. DeviceError: none loads.
  static NcclLibrary& load();
  std::string version() const;  // "2.27.5"

  NcclUniqueId make_unique_id() const;
  // Calls only begin: state() says when a communicator is ready for the next. DeviceError: the call was refused.
  Comm init(int size, const NcclUniqueId& id, int rank) const;
  void all_reduce_sum(void* data, std::size_t count, DType dtype, Comm comm, cudaStream_t stream) const;  // in place
  void all_gather(const void* part, void* all, std::size_t count, DType dtype, Comm comm, cudaStream_t stream) const;
  void broadcast(void* data, std::size_t bytes, int root, Comm comm, cudaStream_t stream) const;
  void group_start() const;  // what is called until group_end becomes one launch
  void group_end() const;

  // failed: something went wrong in the background (a peer that is gone, a network that fails), told in `error`.
  enum class State { ready, in_progress, failed };
  State state(Comm comm, std::string& error) const;
  // Frees a communicator, whatever it is doing; does not wait for other ranks.
  void abort(Comm comm) const;

 private:
  NcclLibrary();
  void require_begun(int result, const char* call) const;
  struct Calls;
  const Calls* calls_ = nullptr;
};

}  // namespace gossamer::cuda
