// TCP between the ranks: an owner of one file descriptor, blocking, without delay.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace gossamer {

class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();

  int descriptor() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }
  // false: the other side is gone, or end() was called.
  bool send(std::span<const std::byte> bytes) const;
  bool receive(std::span<std::byte> bytes) const;
  // All of it or nothing, without waiting; nothing where the other side does not read.
  void send_now(std::span<const std::byte> bytes) const;
  // Both directions; wakes who sends or receives. The descriptor stays taken until the destructor.
  void end() const;

 private:
  int descriptor_ = -1;
};

class Listener {
 public:
  // On a port that the system picks. only_this_host: no other host can connect.
  explicit Listener(bool only_this_host);
  std::uint16_t port() const { return port_; }
  // nullopt when nobody came within the time.
  std::optional<Socket> accept(std::chrono::milliseconds timeout) const;

 private:
  Socket socket_;
  std::uint16_t port_ = 0;
};

// nullopt when the address does not answer within the time.
std::optional<Socket> connect_to(const std::string& ipv4_address, std::uint16_t port, std::chrono::milliseconds timeout);
// Of this host's interfaces, loopback left out.
std::vector<std::string> own_ipv4_addresses();

}  // namespace gossamer
