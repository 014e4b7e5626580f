#include "harmonic/ops/profile.h"

#include <algorithm>
#include <chrono>

namespace harmonic {
namespace {

using Clock = std::chrono::steady_clock;
thread_local Clock::time_point begun;  // the op that this thread runs

}  // namespace

void Profile::begin() {
  if (active_) begun = Clock::now();
}

void Profile::end(const OpCost& cost, double share) {
  if (!active_) return;
  const double seconds = share * std::chrono::duration<double>(Clock::now() - begun).count();
  const std::lock_guard lock(mutex_);
  // A step has some dozens of different ones.
  auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) {
    return e.cost.name == cost.name && e.cost.way == cost.way && e.cost.inputs == cost.inputs &&
           e.cost.outputs == cost.outputs;
  });
  if (entry == entries_.end()) {
    entries_.push_back({cost, 1, seconds});
    return;
  }
  entry->cost.operations += cost.operations;
  entry->cost.bytes += cost.bytes;
  entry->calls += 1;
  entry->seconds += seconds;
}

std::vector<Profile::Entry> Profile::entries() const {
  std::vector<Entry> sorted = entries_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
  return sorted;
}

double Profile::seconds() const {
  double sum = 0;
  for (const Entry& entry : entries_) sum += entry.seconds;
  return sum;
}

}  // namespace harmonic
