#include <map>
#include <mutex>
#include <unordered_map>

#include "harmonic/runtime/session_store.h"

namespace harmonic {
namespace {

class MemoryStore : public SessionStore {
 public:
  void save(Session session) override {
    const auto record = std::make_shared<const Session>(std::move(session));
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const Session>& kept = owners_[record->owner][record->id];
    take(*record);
    if (kept)
      release(*kept);
    else
      ++count_;
    kept = record;
  }

  void add(const Session& like, const std::vector<std::string>& ids) override {
    if (ids.empty()) return;
    const std::lock_guard lock(mutex_);
    Owned& own = owners_[like.owner];
    const auto count = static_cast<int64_t>(ids.size());
    take(like, count);
    const auto shared = std::make_shared<const Session>(like);
    for (const std::string& id : ids) own.emplace_hint(own.end(), id, shared);
    count_ += count;
  }

  std::optional<Session> load(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto own = owners_.find(owner);
    if (own == owners_.end()) return {};
    const auto found = own->second.find(id);
    if (found == own->second.end()) return {};
    return named(*found);
  }

  bool erase(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto own = owners_.find(owner);
    if (own == owners_.end()) return false;
    const auto found = own->second.find(id);
    if (found == own->second.end()) return false;
    release(*found->second);
    own->second.erase(found);
    --count_;
    return true;
  }

  std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) override {
    const std::lock_guard lock(mutex_);
    std::vector<Session> result;
    const auto own = owners_.find(owner);
    if (own == owners_.end()) return result;
    for (auto at = own->second.upper_bound(after);
         at != own->second.end() && static_cast<int64_t>(result.size()) < limit; ++at)
      result.push_back(named(*at));
    return result;
  }

  int64_t count() const override {
    const std::lock_guard lock(mutex_);
    return count_;
  }
  int64_t bytes_in_memory() const override {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  // By id. Forks share one record until they are gone on with: the id in it is not theirs.
  using Owned = std::map<std::string, std::shared_ptr<const Session>>;

  static Session named(const Owned::value_type& kept) {
    Session session = *kept.second;
    session.id = kept.first;
    return session;
  }

  // Several sessions may share a state: its bytes count once.
  void take(const Session& session, int64_t times = 1) {
    each_point(session, [&](const Session::Point& point) {
      int64_t& uses = uses_[point.get()];
      if (uses == 0) bytes_ += point->state.bytes();
      uses += times;
    });
  }
  void release(const Session& session) {
    each_point(session, [this](const Session::Point& point) {
      const auto found = uses_.find(point.get());
      if (--found->second > 0) return;
      bytes_ -= point->state.bytes();
      uses_.erase(found);
    });
  }
  template <typename Use>
  static void each_point(const Session& session, const Use& use) {
    if (session.point) use(session.point);
    for (const auto& [name, point] : session.checkpoints) use(point);
  }

  mutable std::mutex mutex_;
  std::unordered_map<std::string, Owned> owners_;
  std::unordered_map<const TextPoint*, int64_t> uses_;
  int64_t count_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<SessionStore> make_memory_store() { return std::make_unique<MemoryStore>(); }

}  // namespace harmonic
