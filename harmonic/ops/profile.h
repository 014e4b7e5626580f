// Where time goes, op by op.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "harmonic/ops/backend.h"

namespace harmonic {

// Watches a backend: Backend watched = cpu_backend(); watched.observer = &profile. It counts while it is
// active, which it is not at first. Time that is spent by a part of the program's threads counts as that part
// of it. What is not OpObserver's is not thread-safe. It must outlive what runs on the backend.
class Profile : public OpObserver {
 public:
  // All calls of one op on rows of one width, in one direction.
  struct Entry {
    OpCost cost;  // of all calls together
    int64_t calls = 0;
    double seconds = 0;
  };

  void set_active(bool active) { active_ = active; }
  // Forgets what was counted.
  void clear() { entries_.clear(); }
  // The one that took longest first.
  std::vector<Entry> entries() const;
  double seconds() const;  // of all ops

  void begin() override;
  void end(const OpCost& cost, double share) override;

 private:
  bool active_ = false;
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace harmonic
