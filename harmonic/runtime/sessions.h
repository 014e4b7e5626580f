// Sessions at work: texts with names, that are gone on with, forked, marked and gone back to.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "harmonic/runtime/session_store.h"

namespace harmonic {

// Every member may be called from several threads; all may wait for the store.
class Sessions {
 public:
  // At most so many, and of one owner.
  Sessions(std::unique_ptr<SessionStore> store, int64_t most, int64_t most_of_owner = INT64_MAX)
      : store_(std::move(store)), most_(most), most_of_owner_(most_of_owner) {}

  struct NotFound {};
  struct InUse {};  // another request goes on with it now
  // As many as there may be.
  struct TooMany {
    int64_t most;
    bool of_owner;  // of all owners otherwise
  };

  // One session that its holder alone may change, until it is let go of. Movable.
  class Lease {
   public:
    Lease(Lease&& other) noexcept : sessions_(other.sessions_), session(std::move(other.session)) {
      other.sessions_ = nullptr;
    }
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    // Writes what has been made of it. Throws SessionStore::Changed where another server shares the store;
    // the store has the session as it was, whatever is thrown.
    void save();

   private:
    friend class Sessions;
    Lease(Sessions* sessions, Session value) : sessions_(sessions), session(std::move(value)) {}
    Sessions* sessions_;

   public:
    Session session;
  };

  // Makes a session at a point, under an id that nobody can guess; later ones come later in the order of ids.
  // Throws TooMany.
  Session create(const std::string& owner, Session::Point point);
  // Under an id of the caller's making, which nobody has.
  Session create_as(const std::string& id, const std::string& owner, Session::Point point);
  // n copies of a session, as it is given here, under ids of their own, which are returned. No state is
  // copied. Throws TooMany.
  std::vector<std::string> fork(const Session& parent, int64_t n);
  // Throws NotFound, InUse.
  Lease lease(const std::string& owner, const std::string& id);
  // As it is now, whoever goes on with it. Throws NotFound.
  Session look(const std::string& owner, const std::string& id);
  // Throws NotFound, InUse.
  void erase(const std::string& owner, const std::string& id);
  std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) {
    return store_->list(owner, after, limit);
  }

  int64_t count() const { return store_->count(); }
  int64_t bytes_in_memory() const { return store_->bytes_in_memory(); }

 private:
  void hold(const std::string& owner, const std::string& id);
  void let_go(const std::string& owner, const std::string& id);

  const std::unique_ptr<SessionStore> store_;
  void check_room(const std::string& owner, int64_t more) const;
  const int64_t most_, most_of_owner_;
  std::mutex mutex_;
  std::set<std::pair<std::string, std::string>> held_;
};

}  // namespace harmonic
