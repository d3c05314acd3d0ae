// Threads that work for the library inside somebody else's program.
#pragma once

#include <functional>
#include <thread>

namespace gossamer {

// Takes none of the host program's signals: Python handles SIGINT on its main thread. Throws std::system_error if there can be no more.
std::thread start_worker(std::function<void()> body);

}  // namespace gossamer
