// The few MPI calls that ranks need, found in whichever MPI library the launcher belongs to: loaded at run time, so that one build works
// with all of them and without any. Handles are kept as machine words, which holds Open MPI's pointers and MPICH's integers alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace gossamer {

class MpiLibrary {
 public:
  using Request = std::uintptr_t;

  // Initialises MPI, unless the program has done so. DeviceError: no library, or one that is not the launcher's.
  static MpiLibrary& load(const std::string& launcher);

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& path() const { return path_; }

  void broadcast(void* data, std::size_t bytes);                       // from rank 0; blocks
  void all_gather(const void* own, void* all, std::size_t bytes);      // blocks
  Request send(const void* data, std::size_t bytes, int to, int tag);  // complete when test() says so
  Request receive(void* data, std::size_t bytes, int from, int tag);
  bool test(Request& request);
  void finalize();            // unless the program itself initialised MPI; waits for all ranks
  void abort(int exit_code);  // ends all ranks

 private:
  explicit MpiLibrary(const std::string& launcher);
  struct Calls;
  void* handle_ = nullptr;
  const Calls* calls_ = nullptr;
  std::string path_;
  bool is_ours_ = false;  // to finalize
  std::uintptr_t world_ = 0;
  std::uintptr_t byte_ = 0;
  void* ignored_status_ = nullptr;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace gossamer
