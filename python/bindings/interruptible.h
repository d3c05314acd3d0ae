// Long work that Ctrl-C can end: it runs on a thread of its own while the caller looks for signals, so the core never needs the
// interpreter.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>

#include "gil.h"

namespace gossamer::python {

// Thrown through the core's progress callbacks to unwind cancelled work; replaced by the Python exception that asked for it.
class Cancelled : public std::runtime_error {
 public:
  Cancelled() : std::runtime_error("cancelled") {}
};

// Call with the GIL held. work(poll) must call poll() often; poll throws Cancelled. tick() runs with the GIL every 50 ms and may throw
// nanobind::python_error, which cancels the work and is rethrown here.
inline void run_interruptible(const std::function<void(const std::function<void()>& poll)>& work, const std::function<void()>& tick = {}) {
  std::atomic<bool> cancelled = false;
  std::exception_ptr failure;
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::optional<nanobind::python_error> raised;
  {
    const GilRelease release;
    std::thread worker([&] {
      try {
        work([&] {
          if (cancelled.load(std::memory_order_relaxed)) throw Cancelled();
        });
      } catch (...) {
        failure = std::current_exception();
      }
      const std::lock_guard lock(mutex);
      done = true;
      changed.notify_one();
    });
    std::unique_lock lock(mutex);
    while (!changed.wait_for(lock, std::chrono::milliseconds(50), [&] { return done; })) {
      if (cancelled) continue;
      lock.unlock();
      {
        stop_if_finalizing();
        const nanobind::gil_scoped_acquire acquire;
        try {
          if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
          if (tick) tick();
        } catch (const nanobind::python_error& error) {
          raised.emplace(error);
          cancelled = true;
        }
      }
      lock.lock();
    }
    lock.unlock();
    worker.join();
  }
  if (raised) throw nanobind::python_error(*raised);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace gossamer::python
