#include "harmonic/runtime/sessions.h"

#include <sodium.h>

#include <chrono>

namespace harmonic {
namespace {

int64_t now() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Nobody can guess it.
std::string new_session_id(const char* prefix) {
  unsigned char bytes[16];
  ::randombytes_buf(bytes, sizeof bytes);
  char text[2 * sizeof bytes + 1];
  ::sodium_bin2hex(text, sizeof text, bytes, sizeof bytes);
  return prefix + std::string(text);
}

}  // namespace

Sessions::Lease::~Lease() {
  if (sessions_) sessions_->let_go(session.owner, session.id);
}

void Sessions::Lease::save() {
  session.used = now();
  sessions_->store_->save(session);
}

void Sessions::check_room() const {
  if (store_->count() >= most_ || (most_bytes_ > 0 && store_->bytes_in_memory() >= most_bytes_))
    throw TooMany{};
}

void Sessions::hold(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (!held_.emplace(owner, id).second) throw InUse{};
}

void Sessions::let_go(const std::string& owner, const std::string& id) {
  const std::lock_guard lock(mutex_);
  held_.erase({owner, id});
}

std::string Sessions::create(const std::string& owner, Session::Point point, const std::string& parent,
                             std::map<std::string, Session::Point> checkpoints, const char* prefix) {
  check_room();
  Session session{new_session_id(prefix), owner, parent, now(), now(), std::move(point),
                  std::move(checkpoints)};
  store_->save(session);
  return session.id;
}

void Sessions::create_as(const std::string& id, const std::string& owner, Session::Point point) {
  check_room();
  store_->save({id, owner, {}, now(), now(), std::move(point), {}});
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
