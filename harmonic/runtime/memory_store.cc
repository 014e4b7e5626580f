#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>

#include "harmonic/runtime/session_store.h"

namespace harmonic {
namespace {

class MemoryStore : public SessionStore {
 public:
  explicit MemoryStore(MemoryRoom room) : room_(room) {}

  void save(Session session) override {
    const auto record = std::make_shared<const Session>(std::move(session));
    const std::lock_guard lock(mutex_);
    Owner& owner = owners_[record->owner];
    const auto kept = owner.sessions.find(record->id);
    const bool is_new = kept == owner.sessions.end();
    exchange(owner, *record, 1, is_new ? nullptr : kept->second.get());
    if (is_new) {
      owner.sessions.emplace(record->id, record);
      ++count_;
    } else {
      kept->second = record;
    }
  }

  void add(const Session& like, const std::vector<std::string>& ids) override {
    if (ids.empty()) return;
    const std::lock_guard lock(mutex_);
    Owner& owner = owners_[like.owner];
    const auto count = static_cast<int64_t>(ids.size());
    exchange(owner, like, count, nullptr);
    const auto shared = std::make_shared<const Session>(like);
    for (const std::string& id : ids) owner.sessions.emplace_hint(owner.sessions.end(), id, shared);
    count_ += count;
  }

  std::optional<Session> load(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto own = owners_.find(owner);
    if (own == owners_.end()) return {};
    const auto found = own->second.sessions.find(id);
    if (found == own->second.sessions.end()) return {};
    return named(*found);
  }

  bool erase(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto own = owners_.find(owner);
    if (own == owners_.end()) return false;
    const auto found = own->second.sessions.find(id);
    if (found == own->second.sessions.end()) return false;
    release(own->second, *found->second);
    own->second.sessions.erase(found);
    --count_;
    return true;
  }

  std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) override {
    const std::lock_guard lock(mutex_);
    std::vector<Session> result;
    const auto own = owners_.find(owner);
    if (own == owners_.end()) return result;
    const Owned& sessions = own->second.sessions;
    for (auto at = sessions.upper_bound(after);
         at != sessions.end() && static_cast<int64_t>(result.size()) < limit; ++at)
      result.push_back(named(*at));
    return result;
  }

  int64_t count() const override {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  int64_t count_of(const std::string& owner) const override {
    const std::lock_guard lock(mutex_);
    const auto own = owners_.find(owner);
    return own == owners_.end() ? 0 : static_cast<int64_t>(own->second.sessions.size());
  }
  int64_t bytes_in_memory() const override {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  // By id. Forks share one record until they are gone on with: the id in it is not theirs.
  using Owned = std::map<std::string, std::shared_ptr<const Session>>;
  struct Owner {
    Owned sessions;
    std::unordered_map<const TextPoint*, int64_t> uses;
    int64_t bytes = 0;
  };

  static Session named(const Owned::value_type& kept) {
    Session session = *kept.second;
    session.id = kept.first;
    return session;
  }

  // Counts the states of a session that comes so many times, in place of one (which may be null). Throws
  // StoreFull, and counts as before, where it makes more of them than may be.
  void exchange(Owner& owner, const Session& comes, int64_t times, const Session* goes) {
    const int64_t before = bytes_, before_of_owner = owner.bytes;
    take(owner, comes, times);
    if (goes) release(owner, *goes);
    const bool full = bytes_ > std::max(before, room_.bytes),
               owner_full = owner.bytes > std::max(before_of_owner, room_.bytes_of_owner);
    if (!full && !owner_full) return;
    if (goes) take(owner, *goes, 1);
    release(owner, comes, times);
    throw StoreFull(fmt::format("the states of {} would take more than {} bytes; delete some, or give them "
                                "more memory (--session-memory-mb)",
                                owner_full ? "one API key's sessions" : "all sessions",
                                owner_full ? room_.bytes_of_owner : room_.bytes),
                    owner_full);
  }

  // Several sessions may share a state: its bytes count once.
  void take(Owner& owner, const Session& session, int64_t times) {
    each_point(session, [&](const Session::Point& point) {
      int64_t& uses = owner.uses[point.get()];
      if (uses == 0) add_bytes(owner, point->state.bytes());
      uses += times;
    });
  }
  void release(Owner& owner, const Session& session, int64_t times = 1) {
    each_point(session, [&](const Session::Point& point) {
      const auto found = owner.uses.find(point.get());
      if ((found->second -= times) > 0) return;
      add_bytes(owner, -point->state.bytes());
      owner.uses.erase(found);
    });
  }
  void add_bytes(Owner& owner, int64_t bytes) {
    owner.bytes += bytes;
    bytes_ += bytes;
  }
  template <typename Use>
  static void each_point(const Session& session, const Use& use) {
    if (session.point) use(session.point);
    for (const auto& [name, point] : session.checkpoints) use(point);
  }

  const MemoryRoom room_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Owner> owners_;
  int64_t count_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<SessionStore> make_memory_store(MemoryRoom room) {
  return std::make_unique<MemoryStore>(room);
}

}  // namespace harmonic
