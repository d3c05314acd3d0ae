#include "comm/handshake.h"

#include <cstring>
#include <span>
#include <string_view>

#include "core/error.h"

namespace gossamer {

namespace {

constexpr char kFailed = '!';   // a rank's message, instead of its fields
constexpr char kDiffers = '=';  // a verdict: the fields differ
constexpr char kEnd = '\0';     // of a name and of a value

std::string text_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an unknown failure";
  }
}

std::string encode(const Fields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) text += name + kEnd + value + kEnd;
  return text;
}

std::string to_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t end = text.find(kEnd);
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return parts;
}

// What is wrong between rank 0's fields and another's; empty = nothing.
std::string difference(std::string_view ours, std::string_view theirs, std::size_t rank) {
  const std::vector<std::string_view> a = split(ours);
  const std::vector<std::string_view> b = split(theirs);
  const std::string who = "rank " + std::to_string(rank);
  for (std::size_t i = 0; i + 1 < a.size(); i += 2) {
    if (i + 1 >= b.size() || a[i] != b[i]) return who + " is of another build: it does not know the field " + std::string(a[i]);
    if (a[i + 1] == b[i + 1]) continue;
    return who + " differs from rank 0 in " + std::string(a[i]) + ": it has " + printable(b[i + 1]) + ", rank 0 has " +
           printable(a[i + 1]) + "; start every rank with the same program, model and options";
  }
  return a.size() == b.size() ? std::string() : who + " is of another build: it has more fields than rank 0";
}

std::string judge(const std::vector<std::vector<std::byte>>& messages) {
  std::string verdict;
  const std::string first = to_text(messages.front());
  for (std::size_t rank = 0; rank < messages.size(); ++rank) {
    const std::string message = to_text(messages[rank]);
    if (message.starts_with(kFailed)) return kFailed + ("rank " + std::to_string(rank) + " could not start: " + message.substr(1));
    const std::string found = rank == 0 ? std::string() : difference(first, message, rank);
    if (verdict.empty() && !found.empty()) verdict = kDiffers + found;
  }
  return verdict;
}

// The first two ranks with the same message; empty = there are none.
std::string find_sharers(const std::vector<std::vector<std::byte>>& messages, const std::string& what) {
  for (std::size_t second = 1; second < messages.size(); ++second) {
    for (std::size_t first = 0; first < second; ++first) {
      if (messages[first].empty() || messages[first] != messages[second]) continue;
      return "ranks " + std::to_string(first) + " and " + std::to_string(second) + " have the same " + what + ", " +
             printable(to_text(messages[first])) + "; start as many ranks as there are, each with its own";
    }
  }
  return {};
}

}  // namespace

void require_agreement(RankGroup& group, const Fields& fields, const std::exception_ptr& failure) {
  const std::string own = failure ? kFailed + text_of(failure) : encode(fields);
  const std::vector<std::vector<std::byte>> messages = group.gather(to_bytes(own));
  std::vector<std::byte> verdict;
  if (group.leads()) verdict = to_bytes(judge(messages));
  group.broadcast(verdict);
  if (failure) std::rethrow_exception(failure);
  const std::string text = to_text(verdict);
  if (text.empty()) return;
  if (text.front() == kFailed) throw DeviceError(text.substr(1));
  throw InvalidArgument(text.substr(1));
}

void require_distinct(RankGroup& group, const std::string& what, const std::string& own) {
  const std::vector<std::vector<std::byte>> messages = group.gather(to_bytes(own));
  std::vector<std::byte> verdict;
  if (group.leads()) verdict = to_bytes(find_sharers(messages, what));
  group.broadcast(verdict);
  if (!verdict.empty()) throw DeviceError(to_text(verdict));
}

}  // namespace gossamer
