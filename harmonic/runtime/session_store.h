// Where sessions are kept: states of texts under names, each its owner's alone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/runtime/text_point.h"

namespace harmonic {

// A text that somebody goes on with. A value; points are shared, so that a copy, and a fork, copies no state.
struct Session {
  using Point = std::shared_ptr<const TextPoint>;
  std::string id, owner;
  std::string parent;             // that it was forked from; may be empty
  int64_t created = 0, used = 0;  // Unix seconds
  Point point;
  std::map<std::string, Point> checkpoints;
  // How often it was saved, where several servers share a store; of no meaning elsewhere.
  int64_t revision = 0;
};

// The store cannot be reached now; another try may do.
class StoreUnavailable : public Error {
 public:
  using Error::Error;
};

// There is no room for what was to be kept. Nothing was changed: what was kept before still is.
class StoreFull : public Error {
 public:
  // `of_owner`: there would be, but for how much one owner may have.
  explicit StoreFull(std::string message, bool of_owner = false)
      : Error(std::move(message)), of_owner_(of_owner) {}
  bool of_owner() const { return of_owner_; }

 private:
  bool of_owner_;
};

// What is kept of a session is no state of the model's; the store itself is well.
class SessionDamaged : public Error {
 public:
  using Error::Error;
};

// The point that was kept as these bytes (encode_point()). Throws SessionDamaged, naming `store`.
inline Session::Point decode_kept(const Model& model, std::string_view bytes, const std::string& store) {
  try {
    return std::make_shared<const TextPoint>(decode_point(model, bytes, store));
  } catch (const Error& error) {
    throw SessionDamaged(error.what());
  }
}

// Every member may be called from several threads. All throw Error when the store fails; what a call has
// returned from is there after kill -9 where the store is no memory of this process's.
class SessionStore {
 public:
  virtual ~SessionStore() = default;

  // Thrown by save(): another server has changed the session, or ended it, since it was loaded.
  struct Changed {};
  // Adds it, or replaces the one of its owner and id. Throws StoreFull, as add() and erase() may.
  virtual void save(Session session) = 0;
  // Adds copies of a session under ids that nobody has, in their order: all, or none.
  virtual void add(const Session& like, const std::vector<std::string>& ids) = 0;
  // Throws SessionDamaged.
  virtual std::optional<Session> load(const std::string& owner, const std::string& id) = 0;
  virtual bool erase(const std::string& owner, const std::string& id) = 0;
  // At most `limit`, after this id in the order of ids; without points.
  virtual std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) = 0;
  virtual int64_t count() const = 0;
  virtual int64_t count_of(const std::string& owner) const = 0;
  // Bytes of states that it holds in memory.
  virtual int64_t bytes_in_memory() const = 0;
};

// Bytes of states that a store in memory may hold, those that several sessions of an owner share counted
// once.
struct MemoryRoom {
  int64_t bytes = INT64_MAX, bytes_of_owner = INT64_MAX;
};
// Gone with the process.
std::unique_ptr<SessionStore> make_memory_store(MemoryRoom room = {});
// In an SQLite file, made where there is none; `memory` bytes of the sessions used last are held in memory.
// Throws Error for a file of another kind, sessions of another model, and while another process has it.
std::unique_ptr<SessionStore> make_sqlite_store(const std::string& path, const Model& model,
                                                const std::string& identity, int64_t memory);

struct RedisOptions;  // redis_connection.h
// In a Redis server, which several servers of one model may share: each goes on with the sessions of the
// others. `memory` bytes of states used last are held in memory. Of two servers that change a session at the
// same time the first counts, and the other's save() throws Changed. Throws StoreUnavailable, as every member
// does, while Redis cannot be reached or refuses, and Error for what it holds and should not.
std::unique_ptr<SessionStore> make_redis_store(const RedisOptions& options, const Model& model,
                                               const std::string& identity, int64_t memory);

}  // namespace harmonic
