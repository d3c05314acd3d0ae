#include "core/worker_thread.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace gossamer {
namespace {

// A new thread starts with the mask of the one that starts it.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t old_;
};

}  // namespace

std::thread start_worker(std::function<void()> body) {
  const BlockedSignals blocked;
  std::thread worker(std::move(body));
  pthread_setname_np(worker.native_handle(), "gossamer");
  return worker;
}

}  // namespace gossamer
