#include "harmonic/runtime/sessions.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <string_view>

namespace harmonic {
namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Writes the last `digits` hexadecimal digits of a number.
void put_hex(char* text, uint64_t value, int digits) {
  for (; digits > 0; value >>= 4) text[--digits] = "0123456789abcdef"[value & 15];
}

// The time comes first, so that stores add at their end; and then what nobody can guess.
std::vector<std::string> new_session_ids(int64_t count) {
  constexpr std::string_view kPrefix = "sess-";
  static std::atomic<int64_t> last{0};
  const int64_t microseconds = std::chrono::duration_cast<std::chrono::microseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count();
  int64_t before = last.load(), first;
  do {
    first = std::max(before + 1, microseconds);
  } while (!last.compare_exchange_weak(before, first + count - 1));
  std::vector<std::array<uint64_t, 2>> secrets(static_cast<size_t>(count));
  ::randombytes_buf(secrets.data(), secrets.size() * sizeof secrets[0]);
  std::vector<std::string> ids;
  ids.reserve(secrets.size());
  for (const auto& secret : secrets) {
    std::string& id = ids.emplace_back(kPrefix.size() + 15 + 16 + 16, '\0');
    char* digits = std::copy(kPrefix.begin(), kPrefix.end(), id.data());
    put_hex(digits, static_cast<uint64_t>(first++), 15);
    put_hex(digits + 15, secret[0], 16);
    put_hex(digits + 31, secret[1], 16);
  }
  return ids;
}

}  // namespace

Sessions::Lease::~Lease() {
  if (sessions_) sessions_->let_go(session.owner, session.id);
}

void Sessions::Lease::save() {
  session.used = now();
  sessions_->store_->save(session);
  ++session.revision;
}

void Sessions::check_room(const std::string& owner, int64_t more) const {
  if (most_of_owner_ < most_ && store_->count_of(owner) > most_of_owner_ - more)
    throw TooMany{most_of_owner_, true};
  if (store_->count() > most_ - more) throw TooMany{most_, false};
}

void Sessions::hold(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (!held_.emplace(owner, id).second) throw InUse{};
}

void Sessions::let_go(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  held_.erase({owner, id});
}

Session Sessions::create(const std::string& owner, Session::Point point) {
  return create_as(new_session_ids(1).front(), owner, std::move(point));
}

Session Sessions::create_as(const std::string& id, const std::string& owner, Session::Point point) {
  check_room(owner, 1);
  Session session{id, owner, {}, now(), now(), std::move(point), {}};
  store_->save(session);
  return session;
}

std::vector<std::string> Sessions::fork(const Session& parent, int64_t n) {
  check_room(parent.owner, n);
  std::vector<std::string> ids = new_session_ids(n);
  Session fork = parent;
  fork.parent = parent.id;
  fork.created = fork.used = now();
  fork.revision = 0;
  store_->add(fork, ids);
  return ids;
}

Sessions::Lease Sessions::lease(const std::string& owner, const std::string& id) {
  hold(owner, id);
  try {
    if (auto session = store_->load(owner, id)) return {this, std::move(*session)};
  } catch (...) {
    let_go(owner, id);
    throw;
  }
  let_go(owner, id);
  throw NotFound{};
}

Session Sessions::look(const std::string& owner, const std::string& id) {
  if (auto session = store_->load(owner, id)) return std::move(*session);
  throw NotFound{};
}

void Sessions::erase(const std::string& owner, const std::string& id) {
  hold(owner, id);
  bool was_there = false;
  try {
    was_there = store_->erase(owner, id);
  } catch (...) {
    let_go(owner, id);
    throw;
  }
  let_go(owner, id);
  if (!was_there) throw NotFound{};
}

}  // namespace harmonic
