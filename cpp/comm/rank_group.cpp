#include "comm/rank_group.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "core/error.h"

namespace gossamer {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kExitCode = 70;
constexpr std::uint64_t kMaxMessage = std::uint64_t{1} << 30;
constexpr std::size_t kMaxCause = 1000;  // bytes of a cause on its way to others

// What goes over a liveness connection: kind, length, text.
enum class Signal : std::uint8_t { beat, goodbye, failure };
struct SignalHeader {
  Signal kind = Signal::beat;
  std::uint8_t unused = 0;
  std::uint16_t length = 0;
};

std::vector<std::byte> encode(Signal kind, const std::string& text = {}) {
  const SignalHeader header{.kind = kind, .length = static_cast<std::uint16_t>(std::min(text.size(), kMaxCause))};
  std::vector<std::byte> bytes(sizeof(header) + header.length);
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), text.data(), header.length);
  return bytes;
}

std::string seconds(Clock::duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count() / 1000) + " s";
}

void end_process_at_once(const std::string& why) {
  const std::string line = "gossamer: " + why + "; ending this rank\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  ::_exit(kExitCode);
}

}  // namespace

// The monitor thread's state, and what it shares with callers.
struct RankGroup::Shared {
  struct Peer {
    int rank = 0;
    const Socket* liveness = nullptr;
    Clock::time_point last_seen = Clock::now();
    bool is_gone = false;  // in an orderly way
  };

  RankLinks links;
  RankGroupOptions options;
  int rank = 0;
  std::vector<Peer> peers;
  int wake = -1;  // eventfd: leave() or fail() was called
  std::atomic<bool> has_failed = false;
  std::atomic<bool> has_left = false;
  std::atomic<Clock::time_point> step_start{Clock::time_point::max()};  // max = none
  mutable std::mutex mutex;
  std::string cause;
  std::thread monitor;

  ~Shared() { ::close(wake); }
  void fail(const std::string& why);
  void watch();
  void read_signals(Peer& peer);
  void look_at_peers(Clock::time_point now);
  void look_at_step(Clock::time_point now);
  void tell_all(Signal kind, const std::string& text = {}) const;
  void end_group() const;
  void wake_monitor() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake, &one, sizeof(one));
  }
};

void RankGroup::Shared::fail(const std::string& why) {
  {
    const std::lock_guard lock(mutex);
    if (has_failed || has_left) return;
    cause = why;
    has_failed = true;
  }
  wake_monitor();
}

void RankGroup::Shared::tell_all(Signal kind, const std::string& text) const {
  const std::vector<std::byte> bytes = encode(kind, text);
  for (const Peer& peer : peers) {
    if (!peer.is_gone) peer.liveness->send_now(bytes);
  }
}

void RankGroup::Shared::read_signals(Peer& peer) {
  SignalHeader header;
  std::vector<std::byte> text;
  bool is_whole = peer.liveness->receive(std::as_writable_bytes(std::span(&header, 1)));
  if (is_whole && header.length > 0) {
    text.resize(header.length);
    is_whole = peer.liveness->receive(text);
  }
  if (!is_whole) {
    peer.is_gone = true;
    fail("rank " + std::to_string(peer.rank) + " has ended unexpectedly (killed, crashed or out of memory)");
    return;
  }
  peer.last_seen = Clock::now();
  if (header.kind == Signal::goodbye) peer.is_gone = true;
  if (header.kind == Signal::failure) fail(std::string(reinterpret_cast<const char*>(text.data()), text.size()));
}

void RankGroup::Shared::look_at_peers(Clock::time_point now) {
  for (const Peer& peer : peers) {
    if (peer.is_gone || now - peer.last_seen <= options.watchdog) continue;
    fail("rank " + std::to_string(peer.rank) + " has been silent for " + seconds(now - peer.last_seen) +
         " (stopped, hung or cut off); the limit is watchdog_seconds");
  }
}

void RankGroup::Shared::look_at_step(Clock::time_point now) {
  const Clock::time_point start = step_start;
  if (start > now || now - start <= options.watchdog) return;
  fail("rank " + std::to_string(rank) + " has been in one step for " + seconds(now - start) +
       " (a hung device or rank); the limit is watchdog_seconds");
}

void RankGroup::Shared::watch() {
  const Clock::duration interval = std::min<Clock::duration>(std::chrono::seconds(1), options.watchdog / 5);
  std::vector<pollfd> entries;
  Clock::time_point last_beat{};
  Clock::time_point last_round = Clock::now();
  while (!has_failed && !has_left) {
    entries.assign(1, {.fd = wake, .events = POLLIN, .revents = 0});
    for (const Peer& peer : peers)
      entries.push_back({.fd = peer.is_gone ? -1 : peer.liveness->descriptor(), .events = POLLIN, .revents = 0});
    ::poll(entries.data(), entries.size(), static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(interval).count()));
    const Clock::time_point now = Clock::now();
    if (now - last_round > options.watchdog / 2) {  // this rank itself was stopped: what it did not hear is no one's fault
      for (Peer& peer : peers) peer.last_seen = now;
    }
    last_round = now;
    for (std::size_t i = 0; i < peers.size(); ++i) {
      if (entries[i + 1].revents != 0) read_signals(peers[i]);
    }
    look_at_peers(now);
    look_at_step(now);
    if (now - last_beat >= interval) {
      tell_all(Signal::beat);
      last_beat = now;
    }
  }
  if (has_failed) {
    end_group();
  } else {
    tell_all(Signal::goodbye);
  }
}

void RankGroup::Shared::end_group() const {
  std::string why;
  {
    const std::lock_guard lock(mutex);
    why = cause;
  }
  tell_all(Signal::failure, why);
  for (const Socket& socket : links.control) socket.end();
  std::this_thread::sleep_for(options.grace);
  (options.end_process != nullptr ? options.end_process : end_process_at_once)(why);
}

RankGroup::RankGroup(int rank, int size, RankLinks links, const RankGroupOptions& options)
    : rank_(rank), size_(size), options_(options), shared_(std::make_shared<Shared>()) {
  shared_->links = std::move(links);
  shared_->options = options;
  shared_->rank = rank;
  shared_->wake = ::eventfd(0, EFD_CLOEXEC);
  if (shared_->wake < 0) throw DeviceError("the ranks' monitor cannot start: too many open files");
  for (int other = rank == 0 ? 1 : 0; other < (rank == 0 ? size : 1); ++other) {
    shared_->peers.push_back({.rank = other, .liveness = &shared_->links.liveness[static_cast<std::size_t>(other)]});
  }
  // The thread holds what it uses: after a failure it outlives the group.
  shared_->monitor = std::thread([shared = shared_] { shared->watch(); });
}

RankGroup::~RankGroup() {
  if (!shared_->has_left) fail("rank " + std::to_string(rank_) + " has left without a word");
  if (shared_->has_failed) {
    shared_->monitor.detach();
  } else {
    shared_->monitor.join();
  }
}

void RankGroup::fail(const std::string& why) { shared_->fail(why); }

void RankGroup::step_begins() { shared_->step_start = Clock::now(); }

void RankGroup::step_ends() { shared_->step_start = Clock::time_point::max(); }

void RankGroup::leave() {
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->has_failed) return;
    shared_->has_left = true;
  }
  shared_->wake_monitor();
}

const Socket& RankGroup::control(int other) const { return shared_->links.control[static_cast<std::size_t>(rank_ == 0 ? other : 0)]; }

// The monitor knows, or will in a moment, why a connection is gone.
void RankGroup::throw_broken(int other) {
  for (int wait = 0; wait < 50 && !shared_->has_failed; ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  fail("the connection to rank " + std::to_string(other) + " is broken");
  require_alive();
  throw EngineDeadError("the ranks have parted");
}

void RankGroup::send(int to, std::span<const std::byte> message) {
  const std::uint64_t length = message.size();
  const bool is_sent = control(to).send(std::as_bytes(std::span(&length, 1))) && control(to).send(message);
  if (!is_sent) throw_broken(to);
}

void RankGroup::receive(int from, std::vector<std::byte>& message) {
  std::uint64_t length = 0;
  if (!control(from).receive(std::as_writable_bytes(std::span(&length, 1)))) throw_broken(from);
  check(length <= kMaxMessage, "a message between ranks is too long");
  message.resize(length);
  if (!control(from).receive(message)) throw_broken(from);
}

void RankGroup::broadcast(std::vector<std::byte>& message) {
  require_alive();
  if (rank_ != 0) {
    receive(0, message);
    return;
  }
  for (int to = 1; to < size_; ++to) send(to, message);
}

std::vector<std::vector<std::byte>> RankGroup::gather(std::span<const std::byte> message) {
  require_alive();
  std::vector<std::vector<std::byte>> all;
  if (rank_ != 0) {
    send(0, message);
    return all;
  }
  all.resize(static_cast<std::size_t>(size_));
  all[0].assign(message.begin(), message.end());
  for (int from = 1; from < size_; ++from) receive(from, all[static_cast<std::size_t>(from)]);
  return all;
}

std::int64_t RankGroup::minimum(std::int64_t value) {
  for (const std::vector<std::byte>& bytes : gather(std::as_bytes(std::span(&value, 1)))) {
    std::int64_t theirs = 0;
    check(bytes.size() == sizeof(theirs), "RankGroup::minimum: the ranks call different things");
    std::memcpy(&theirs, bytes.data(), sizeof(theirs));
    value = std::min(value, theirs);
  }
  std::vector<std::byte> result(sizeof(value));
  std::memcpy(result.data(), &value, sizeof(value));
  broadcast(result);
  check(result.size() == sizeof(value), "RankGroup::minimum: the ranks call different things");
  std::memcpy(&value, result.data(), sizeof(value));
  return value;
}

void RankGroup::require_alive() const {
  if (!shared_->has_failed) return;
  const std::lock_guard lock(shared_->mutex);
  throw EngineDeadError("the ranks have ended: " + shared_->cause);
}

}  // namespace gossamer
