// Leaving and entering the interpreter in a way that survives its end. A daemon thread that asks for the GIL while the interpreter
// finalises is ended by it with a forced unwind (CPython before 3.14), which a C++ destructor may not pass: the process would abort.
#pragma once

#include <nanobind/nanobind.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace gossamer::python {

inline bool interpreter_is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Calls that are outside the interpreter, or on their way back into it.
inline std::atomic<int>& calls_in_flight() {
  static std::atomic<int> count = 0;
  return count;
}

// Never returns once the interpreter finalises: the process is about to end, and nothing may ask for the GIL any more.
inline void stop_if_finalizing() {
  while (interpreter_is_finalizing()) std::this_thread::sleep_for(std::chrono::seconds(1));
}

// Lets go of the GIL in a scope. The thread that finalises, and destroys what is left, may have it back.
class GilRelease {
 public:
  GilRelease() : finalizing_here_(interpreter_is_finalizing()) {
    calls_in_flight().fetch_add(1);
    state_ = PyEval_SaveThread();
  }
  ~GilRelease() {
    if (!finalizing_here_) stop_if_finalizing();
    PyEval_RestoreThread(state_);
    calls_in_flight().fetch_sub(1);
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  bool finalizing_here_;  // only the finalising thread can hold the GIL then
  PyThreadState* state_ = nullptr;
};

// At interpreter exit, once every Runtime is closed: waits until the other threads' calls are back in Python, where they end cleanly. A
// forked child has none of those threads.
inline void wait_for_calls(int timeout_ms) {
  static const pid_t process = getpid();  // first called at import
  if (getpid() != process) return;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (calls_in_flight().load() > 0 && std::chrono::steady_clock::now() < deadline) {
    PyThreadState* state = PyEval_SaveThread();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    PyEval_RestoreThread(state);
  }
}

}  // namespace gossamer::python
