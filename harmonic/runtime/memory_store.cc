#include <mutex>
#include <unordered_map>

#include "harmonic/runtime/session_store.h"

namespace harmonic {
namespace {

class MemoryStore : public SessionStore {
 public:
  void save(const Session& session) override {
    const std::lock_guard lock(mutex_);
    Session& place = owners_[session.owner][session.id];
    count_ += place.id.empty();
    release(place);
    place = session;
    take(place);
  }

  std::optional<Session> load(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto sessions = owners_.find(owner);
    if (sessions == owners_.end()) return {};
    const auto found = sessions->second.find(id);
    if (found == sessions->second.end()) return {};
    return found->second;
  }

  bool erase(const std::string& owner, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    const auto sessions = owners_.find(owner);
    if (sessions == owners_.end()) return false;
    const auto found = sessions->second.find(id);
    if (found == sessions->second.end()) return false;
    release(found->second);
    sessions->second.erase(found);
    --count_;
    return true;
  }

  std::vector<Session> list(const std::string& owner, const std::string& after, int64_t limit) override {
    const std::lock_guard lock(mutex_);
    std::vector<Session> result;
    const auto sessions = owners_.find(owner);
    if (sessions == owners_.end()) return result;
    for (auto at = sessions->second.upper_bound(after);
         at != sessions->second.end() && static_cast<int64_t>(result.size()) < limit; ++at)
      result.push_back(at->second);
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
  // Several sessions may share a state: its bytes count once.
  void take(const Session& session) {
    each_point(session, [this](const Session::Point& point) {
      if (++uses_[point.get()] == 1) bytes_ += point->state.bytes();
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
  std::unordered_map<std::string, std::map<std::string, Session>> owners_;
  std::unordered_map<const TextPoint*, int64_t> uses_;
  int64_t count_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<SessionStore> make_memory_store() { return std::make_unique<MemoryStore>(); }

}  // namespace harmonic
