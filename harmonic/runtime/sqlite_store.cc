#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <list>
#include <mutex>
#include <unordered_map>

#include "harmonic/base/error.h"
#include "harmonic/base/file_lock.h"
#include "harmonic/runtime/session_store.h"

namespace harmonic {
namespace {

constexpr const char* kSchema = R"(
  CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS states (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS sessions (owner TEXT NOT NULL, id TEXT NOT NULL, parent TEXT NOT NULL,
    created INTEGER NOT NULL, used INTEGER NOT NULL, state INTEGER NOT NULL, PRIMARY KEY (owner, id)) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS checkpoints (owner TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL,
    state INTEGER NOT NULL, PRIMARY KEY (owner, id, name)) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS sessions_by_state ON sessions (state);
  CREATE INDEX IF NOT EXISTS checkpoints_by_state ON checkpoints (state);
)";

// Whether a write found no room. SQLite has a code for one of the ways in which the system says so.
bool is_full(int code, int system_error) {
  return code == SQLITE_FULL || (code == SQLITE_IOERR &&
                                 (system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG));
}

// Right after the call that failed.
[[noreturn]] void fail_of(sqlite3* database, const std::string& file) {
  const int system_error = errno;  // sqlite3_system_errno() has it for a few kinds of failure alone
  const int code = sqlite3_errcode(database) & 0xFF;
  const std::string what = fmt::format("{}: {}", file, sqlite3_errmsg(database));
  if (is_full(code, system_error)) throw StoreFull(what + "; make room on its disk, or delete sessions");
  if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
    throw StoreUnavailable(what + "; another program has held it for too long");
  fail("{}{}", what,
       code == SQLITE_NOTADB     ? "; name a file of sessions, or none yet (--sessions sqlite:FILE)"
       : code == SQLITE_CORRUPT  ? "; it is damaged: put a copy in its place, or move it away to begin anew"
       : code == SQLITE_READONLY ? "; let this program write it and its folder"
                                 : "");
}

// A prepared statement; used by one call at a time.
class Statement {
 public:
  Statement(sqlite3* database, const std::string& file, const char* text) : database_(database), file_(file) {
    check(sqlite3_prepare_v3(database, text, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr) ==
          SQLITE_OK);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  // Starts a new use of it.
  Statement& begin() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
    bound_ = 0;
    return *this;
  }
  Statement& text(const std::string& value) {
    check(sqlite3_bind_text64(statement_, ++bound_, value.data(), value.size(), SQLITE_TRANSIENT,
                              SQLITE_UTF8) == SQLITE_OK);
    return *this;
  }
  Statement& number(int64_t value) {
    check(sqlite3_bind_int64(statement_, ++bound_, value) == SQLITE_OK);
    return *this;
  }
  Statement& bytes(const std::string& value) {
    check(sqlite3_bind_blob64(statement_, ++bound_, value.data(), value.size(), SQLITE_TRANSIENT) ==
          SQLITE_OK);
    return *this;
  }
  // Whether there is another row.
  bool step() {
    const int result = sqlite3_step(statement_);
    if (result == SQLITE_DONE) sqlite3_reset(statement_);
    check(result == SQLITE_ROW || result == SQLITE_DONE);
    return result == SQLITE_ROW;
  }
  int64_t number_at(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string bytes_at(int column) const {
    const void* data = sqlite3_column_blob(statement_, column);
    return {static_cast<const char*>(data), static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }
  void end() { sqlite3_reset(statement_); }

 private:
  void check(bool fine) const {
    if (!fine) fail_of(database_, file_);
  }
  sqlite3* database_;
  const std::string& file_;
  sqlite3_stmt* statement_ = nullptr;
  int bound_ = 0;
};

// The lock of a file of sessions. The file is made where it is missing, for its owner alone: texts can be
// told from states.
FileLock locked(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0)
    fail("{}: cannot open: {}; expected a file for sessions, or none yet", path, std::strerror(errno));
  ::close(file);
  FileLock lock(path + ".lock", FileLock::Kind::exclusive);
  if (lock.state() == FileLock::State::taken)
    fail("{}: another server keeps its sessions there; name another file (--sessions sqlite:FILE)", path);
  return lock;
}

struct Database {
  explicit Database(const std::string& path) : file(path), lock(locked(path)) {
    // SQLite has a meaning of its own for some names, as ":memory:", but for no path that begins with a
    // slash.
    if (sqlite3_open_v2(std::filesystem::absolute(path).c_str(), &handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        nullptr) != SQLITE_OK) {
      const std::string why = handle ? sqlite3_errmsg(handle) : "out of memory";
      sqlite3_close(handle);
      fail("{}: cannot open: {}; expected a file for sessions, or none yet", path, why);
    }
    sqlite3_busy_timeout(handle, 5000);
    try {
      // A write that has returned is in the journal: a kill loses nothing, a loss of power the last moments.
      run("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;");
      run(kSchema);
    } catch (...) {
      sqlite3_close(handle);
      throw;
    }
  }
  ~Database() { sqlite3_close(handle); }
  void run(const char* text) {
    if (sqlite3_exec(handle, text, nullptr, nullptr, nullptr) != SQLITE_OK) fail_of(handle, file);
  }
  const std::string file;
  const FileLock lock;
  sqlite3* handle = nullptr;
};

class SqliteStore : public SessionStore {
 public:
  SqliteStore(const std::string& path, const Model& model, const std::string& identity, int64_t memory)
      : model_(model), memory_(memory), database_(path) {
    Statement ask(database_.handle, database_.file, "SELECT value FROM about WHERE key = 'model'");
    if (ask.begin().step()) {
      if (ask.bytes_at(0) != identity)
        fail("{}: holds sessions of another model; states are of use only to the exact model that made them",
             path);
    } else {
      Statement put(database_.handle, database_.file, "INSERT INTO about VALUES ('model', ?)");
      put.begin().text(identity).step();
    }
    ask.end();
    Statement count(database_.handle, database_.file, "SELECT owner, COUNT(*) FROM sessions GROUP BY owner");
    for (count.begin(); count.step();) add_count(count.bytes_at(0), count.number_at(1));
  }

  void save(Session session) override {
    const std::lock_guard lock(mutex_);
    bool is_new = false;
    change([&] {
      is_new = !drop_rows(session.owner, session.id);
      put(session);
      drop_states();
    });
    add_count(session.owner, is_new);
    keep(session);
  }

  void add(const Session& like, const std::vector<std::string>& ids) override {
    const std::lock_guard lock(mutex_);
    Session session = like;
    change([&] {
      for (const std::string& id : ids) {
        session.id = id;
        put(session);
      }
    });
    add_count(like.owner, static_cast<int64_t>(ids.size()));
    for (const std::string& id : ids) {
      session.id = id;
      keep(session);
    }
  }

  std::optional<Session> load(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    if (const auto found = kept_.find({owner, id}); found != kept_.end()) {
      order_.splice(order_.begin(), order_, found->second);
      return *found->second;
    }
    Session session;
    Statement& ask = get_session_.begin().text(owner).text(id);
    if (!ask.step()) return {};
    session.id = id;
    session.owner = owner;
    session.parent = ask.bytes_at(0);
    session.created = ask.number_at(1);
    session.used = ask.number_at(2);
    const int64_t state = ask.number_at(3);
    ask.end();
    session.point = point_of(state);
    Statement& more = get_checkpoints_.begin().text(owner).text(id);
    std::map<std::string, int64_t> numbers;
    while (more.step()) numbers[more.bytes_at(0)] = more.number_at(1);
    for (const auto& [name, number] : numbers) session.checkpoints[name] = point_of(number);
    keep(session);
    return session;
  }

  bool erase(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    bool was_there = false;
    change([&] {
      was_there = drop_rows(owner, id);
      drop_states();
    });
    add_count(owner, -static_cast<int64_t>(was_there));
    forget(owner, id);
    return was_there;
  }

  std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) override {
    const std::lock_guard lock(mutex_);
    std::vector<Session> result;
    Statement& ask = list_.begin().text(owner).text(after).number(limit);
    while (ask.step()) {
      Session session;
      session.owner = owner;
      session.id = ask.bytes_at(0);
      session.parent = ask.bytes_at(1);
      session.created = ask.number_at(2);
      session.used = ask.number_at(3);
      result.push_back(std::move(session));
    }
    return result;
  }

  int64_t count() const override {
    const std::lock_guard lock(mutex_);
    return sessions_;
  }
  int64_t count_of(const std::string& owner) const override {
    const std::lock_guard lock(mutex_);
    const auto found = sessions_of_.find(owner);
    return found == sessions_of_.end() ? 0 : found->second;
  }

  int64_t bytes_in_memory() const override {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  // All of it or nothing. `work` may run twice.
  template <typename Work>
  void change(const Work& work) {
    try {
      change_once(work);
    } catch (const StoreFull&) {
      // What stands in the journal goes to the file, where that has room, and the journal begins anew: there
      // may be room then.
      if (sqlite3_wal_checkpoint_v2(database_.handle, nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr,
                                    nullptr) != SQLITE_OK)
        throw;
      change_once(work);
    }
  }
  template <typename Work>
  void change_once(const Work& work) {
    database_.run("BEGIN IMMEDIATE");
    try {
      work();
      database_.run("COMMIT");
    } catch (...) {
      sqlite3_exec(database_.handle, "ROLLBACK", nullptr, nullptr, nullptr);
      // Rows that are known may not have come to be.
      numbers_.clear();
      points_.clear();
      throw;
    }
  }

  void add_count(const std::string& owner, int64_t sessions) {
    sessions_ += sessions;
    sessions_of_[owner] += sessions;
  }

  void put(const Session& session) {
    put_session_.begin()
        .text(session.owner)
        .text(session.id)
        .text(session.parent)
        .number(session.created)
        .number(session.used)
        .number(state_of(session.point))
        .step();
    for (const auto& [name, point] : session.checkpoints)
      put_checkpoint_.begin().text(session.owner).text(session.id).text(name).number(state_of(point)).step();
  }

  // The number of a state's row, which is made where it has none. Forks share one.
  int64_t state_of(const Session::Point& point) {
    if (const auto found = numbers_.find(point.get());
        found != numbers_.end() && !found->second.point.expired())
      return found->second.number;
    put_state_.begin().bytes(encode_point(*point)).step();
    const int64_t number = sqlite3_last_insert_rowid(database_.handle);
    know(number, point);
    return number;
  }

  void know(int64_t number, const Session::Point& point) {
    numbers_[point.get()] = {number, point};
    points_[number] = point.get();
  }

  Session::Point point_of(int64_t number) {
    Statement& ask = get_state_.begin().number(number);
    if (!ask.step()) fail("{}: damaged: a session's state is missing", database_.file);
    const std::string bytes = ask.bytes_at(0);
    ask.end();
    const auto point = decode_kept(model_, bytes, database_.file);
    know(number, point);
    return point;
  }

  // The rows of a session go, and whether there was one is returned; their states are remembered, to go too
  // where nobody else has them.
  bool drop_rows(const std::string& owner, const std::string& id) {
    orphans_.clear();
    Statement& session = get_session_.begin().text(owner).text(id);
    if (session.step()) orphans_.push_back(session.number_at(3));
    session.end();
    Statement& checkpoints = get_checkpoints_.begin().text(owner).text(id);
    while (checkpoints.step()) orphans_.push_back(checkpoints.number_at(1));
    drop_checkpoints_.begin().text(owner).text(id).step();
    drop_session_.begin().text(owner).text(id).step();
    return sqlite3_changes(database_.handle) > 0;
  }
  void drop_states() {
    for (const int64_t number : orphans_) {
      drop_state_.begin().number(number).number(number).number(number).step();
      if (sqlite3_changes(database_.handle) == 0) continue;
      const auto point = points_.find(number);
      if (point == points_.end()) continue;
      numbers_.erase(point->second);
      points_.erase(point);
    }
  }

  // --- the ones used last, in memory ---

  int64_t bytes_of(const Session& session) const {
    return (1 + static_cast<int64_t>(session.checkpoints.size())) * (model_.state_layout().bytes() + 512);
  }
  void keep(const Session& session) {
    forget(session.owner, session.id);
    order_.push_front(session);
    kept_[{session.owner, session.id}] = order_.begin();
    bytes_ += bytes_of(session);
    while (bytes_ > memory_ && order_.size() > 1) forget(order_.back().owner, order_.back().id);
    if (numbers_.size() <= 2 * order_.size() + 1024) return;
    std::erase_if(numbers_, [](const auto& entry) { return entry.second.point.expired(); });
    points_.clear();
    for (const auto& [point, numbered] : numbers_) points_[numbered.number] = point;
  }
  void forget(std::string owner, std::string id) {
    const auto found = kept_.find({owner, id});
    if (found == kept_.end()) return;
    bytes_ -= bytes_of(*found->second);
    order_.erase(found->second);
    kept_.erase(found);
  }

  struct Numbered {
    int64_t number;
    std::weak_ptr<const TextPoint> point;  // gone: another may lie at its address
  };

  const Model& model_;
  const int64_t memory_;
  mutable std::mutex mutex_;
  Database database_;
  Statement put_state_{database_.handle, database_.file, "INSERT INTO states (bytes) VALUES (?)"};
  Statement get_state_{database_.handle, database_.file, "SELECT bytes FROM states WHERE number = ?"};
  Statement drop_state_{
      database_.handle, database_.file,
      "DELETE FROM states WHERE number = ? AND NOT EXISTS (SELECT 1 FROM sessions WHERE state = ?) AND NOT "
      "EXISTS (SELECT 1 FROM checkpoints WHERE state = ?)"};
  Statement put_session_{
      database_.handle, database_.file,
      "INSERT INTO sessions (owner, id, parent, created, used, state) VALUES (?, ?, ?, ?, ?, ?)"};
  Statement get_session_{database_.handle, database_.file,
                         "SELECT parent, created, used, state FROM sessions WHERE owner = ? AND id = ?"};
  Statement drop_session_{database_.handle, database_.file,
                          "DELETE FROM sessions WHERE owner = ? AND id = ?"};
  Statement put_checkpoint_{database_.handle, database_.file,
                            "INSERT INTO checkpoints (owner, id, name, state) VALUES (?, ?, ?, ?)"};
  Statement get_checkpoints_{database_.handle, database_.file,
                             "SELECT name, state FROM checkpoints WHERE owner = ? AND id = ?"};
  Statement drop_checkpoints_{database_.handle, database_.file,
                              "DELETE FROM checkpoints WHERE owner = ? AND id = ?"};
  Statement list_{
      database_.handle, database_.file,
      "SELECT id, parent, created, used FROM sessions WHERE owner = ? AND id > ? ORDER BY id LIMIT ?"};
  std::vector<int64_t> orphans_;
  std::unordered_map<const TextPoint*, Numbered> numbers_;  // the rows of states that are in memory
  std::unordered_map<int64_t, const TextPoint*> points_;    // and the other way
  int64_t sessions_ = 0;
  std::unordered_map<std::string, int64_t> sessions_of_;  // by owner
  std::list<Session> order_;                              // the last used first
  std::map<std::pair<std::string, std::string>, std::list<Session>::iterator> kept_;
  int64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<SessionStore> make_sqlite_store(const std::string& path, const Model& model,
                                                const std::string& identity, int64_t memory) {
  return std::make_unique<SqliteStore>(path, model, identity, memory);
}

}  // namespace harmonic
