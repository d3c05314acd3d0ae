// The rendezvous: rank 0 listens, tells the others over MPI where, and takes two connections from each of them.
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "comm/mpi_library.h"
#include "comm/rank_group.h"
#include "core/error.h"

namespace gossamer {

namespace {

constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::milliseconds kTry{3'000};
constexpr std::size_t kMaxAddresses = 16;

using Secret = std::array<std::byte, 16>;

// What rank 0 tells all. The secret keeps strangers out of the port while it is open.
struct Meeting {
  Secret secret{};
  std::uint16_t port = 0;
  std::uint16_t num_addresses = 0;
  std::array<std::array<char, 16>, kMaxAddresses> addresses{};  // IPv4, zero-terminated
};

enum class LinkKind : std::uint32_t { control, liveness };

struct Hello {
  Secret secret{};
  std::int32_t rank = 0;
  LinkKind kind = LinkKind::control;
};

bool all_on_one_host(MpiLibrary& mpi) {
  using Name = std::array<char, 256>;
  Name own{};
  ::gethostname(own.data(), own.size() - 1);
  std::vector<Name> all(static_cast<std::size_t>(mpi.size()));
  mpi.all_gather(own.data(), all.data(), sizeof(Name));
  for (const Name& name : all) {
    if (name != own) return false;
  }
  return true;
}

Meeting make_meeting(const Listener& listener, bool one_host) {
  Meeting meeting;
  check(::getrandom(meeting.secret.data(), meeting.secret.size(), 0) == static_cast<ssize_t>(meeting.secret.size()), "getrandom works");
  meeting.port = listener.port();
  const std::vector<std::string> addresses = one_host ? std::vector<std::string>{"127.0.0.1"} : own_ipv4_addresses();
  for (const std::string& address : addresses) {
    if (meeting.num_addresses == kMaxAddresses) break;
    std::memcpy(meeting.addresses[meeting.num_addresses++].data(), address.c_str(), address.size() + 1);
  }
  return meeting;
}

// Strangers and the impatient are turned away by closing their connection.
void take_one(const Listener& listener, const Meeting& meeting, RankLinks& links, int& missing) {
  std::optional<Socket> socket = listener.accept(kTry);
  Hello hello;
  if (!socket || !socket->receive(std::as_writable_bytes(std::span(&hello, 1)))) return;
  if (hello.secret != meeting.secret || hello.rank < 1 || hello.rank >= static_cast<std::int32_t>(links.control.size())) return;
  Socket& place = (hello.kind == LinkKind::control ? links.control : links.liveness)[static_cast<std::size_t>(hello.rank)];
  if (place.is_open() || !socket->send(meeting.secret)) return;
  place = std::move(*socket);
  --missing;
}

RankLinks lead(MpiLibrary& mpi, bool one_host) {
  const Listener listener(one_host);
  Meeting meeting = make_meeting(listener, one_host);
  mpi.broadcast(&meeting, sizeof(meeting));
  RankLinks links{.control = std::vector<Socket>(static_cast<std::size_t>(mpi.size())),
                  .liveness = std::vector<Socket>(static_cast<std::size_t>(mpi.size()))};
  int missing = 2 * (mpi.size() - 1);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (missing > 0 && std::chrono::steady_clock::now() < deadline) take_one(listener, meeting, links, missing);
  for (std::size_t rank = 1; rank < links.control.size(); ++rank) {
    if (links.control[rank].is_open() && links.liveness[rank].is_open()) continue;
    throw DeviceError("rank " + std::to_string(rank) + " did not connect to rank 0 within " + std::to_string(kPatience.count()) +
                      " s; is there a firewall between the hosts?");
  }
  return links;
}

Socket reach(const Meeting& meeting, int rank, LinkKind kind) {
  const Hello hello{.secret = meeting.secret, .rank = rank, .kind = kind};
  std::string tried;
  for (std::size_t i = 0; i < meeting.num_addresses && i < kMaxAddresses; ++i) {
    const std::string address = meeting.addresses[i].data();
    std::optional<Socket> socket = connect_to(address, meeting.port, kTry);
    Secret echo{};
    if (socket && socket->send(std::as_bytes(std::span(&hello, 1))) && socket->receive(echo) && echo == meeting.secret) {
      return std::move(*socket);
    }
    tried += (tried.empty() ? "" : ", ") + address;
  }
  throw DeviceError("rank " + std::to_string(rank) + " cannot reach rank 0 on port " + std::to_string(meeting.port) + " of " + tried +
                    "; is there a firewall between the hosts?");
}

RankLinks follow(MpiLibrary& mpi) {
  Meeting meeting;
  mpi.broadcast(&meeting, sizeof(meeting));
  RankLinks links;
  links.control.push_back(reach(meeting, mpi.rank(), LinkKind::control));
  links.liveness.push_back(reach(meeting, mpi.rank(), LinkKind::liveness));
  return links;
}

}  // namespace

RankLinks connect_ranks(const Launch& launch) {
  MpiLibrary& mpi = MpiLibrary::load(launch.launcher);
  if (mpi.size() != launch.size || mpi.rank() != launch.rank) {
    throw DeviceError(launch.launcher + " started this process as rank " + std::to_string(launch.rank) + " of " +
                      std::to_string(launch.size) + ", but " + mpi.path() + " sees rank " + std::to_string(mpi.rank()) + " of " +
                      std::to_string(mpi.size()) + ": this mpirun belongs to another MPI; use the mpirun of the library that is loaded" +
                      (launch.launcher == "Slurm" ? ", or srun --mpi=pmix" : ""));
  }
  const bool one_host = all_on_one_host(mpi);
  return mpi.rank() == 0 ? lead(mpi, one_host) : follow(mpi);
}

}  // namespace gossamer
