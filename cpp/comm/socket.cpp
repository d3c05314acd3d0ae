#include "comm/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace gossamer {

namespace {

DeviceError system_error(const std::string& what) {
  return DeviceError("the ranks cannot reach each other: " + what + ": " + std::strerror(errno));
}

bool wait_for(int descriptor, short events, std::chrono::milliseconds timeout) {
  pollfd entry{.fd = descriptor, .events = events, .revents = 0};
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

void send_without_delay(int descriptor) {
  const int yes = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
}

}  // namespace

Socket::Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool Socket::send(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

bool Socket::receive(std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = ::recv(descriptor_, bytes.data(), bytes.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

void Socket::send_now(std::span<const std::byte> bytes) const {
  (void)::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);  // small: fits a send buffer or does not
}

void Socket::end() const {
  if (descriptor_ >= 0) ::shutdown(descriptor_, SHUT_RDWR);
}

Listener::Listener(bool only_this_host) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  if (!socket_.is_open()) throw system_error("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(only_this_host ? INADDR_LOOPBACK : INADDR_ANY);
  socklen_t length = sizeof(address);
  if (::bind(socket_.descriptor(), reinterpret_cast<sockaddr*>(&address), length) != 0) throw system_error("bind");
  if (::listen(socket_.descriptor(), SOMAXCONN) != 0) throw system_error("listen");
  if (::getsockname(socket_.descriptor(), reinterpret_cast<sockaddr*>(&address), &length) != 0) throw system_error("getsockname");
  port_ = ntohs(address.sin_port);
}

std::optional<Socket> Listener::accept(std::chrono::milliseconds timeout) const {
  if (!wait_for(socket_.descriptor(), POLLIN, timeout)) return std::nullopt;
  Socket accepted(::accept4(socket_.descriptor(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!accepted.is_open()) return std::nullopt;
  send_without_delay(accepted.descriptor());
  return accepted;
}

std::optional<Socket> connect_to(const std::string& ipv4_address, std::uint16_t port, std::chrono::milliseconds timeout) {
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.is_open()) throw system_error("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, ipv4_address.c_str(), &address.sin_addr) != 1) return std::nullopt;
  const int result = ::connect(socket.descriptor(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  if (result != 0 && errno != EINPROGRESS) return std::nullopt;
  if (result != 0 && !wait_for(socket.descriptor(), POLLOUT, timeout)) return std::nullopt;
  int error = 0;
  socklen_t length = sizeof(error);
  if (::getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) return std::nullopt;
  ::fcntl(socket.descriptor(), F_SETFL, ::fcntl(socket.descriptor(), F_GETFL) & ~O_NONBLOCK);
  send_without_delay(socket.descriptor());
  return socket;
}

std::vector<std::string> own_ipv4_addresses() {
  std::vector<std::string> addresses;
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return addresses;
  for (const ifaddrs* entry = first; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET_ADDRSTRLEN] = {};
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    if (::inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)) != nullptr) addresses.emplace_back(text);
  }
  ::freeifaddrs(first);
  return addresses;
}

}  // namespace gossamer
