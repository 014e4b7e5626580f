// Where time goes, op by op.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "harmonic/ops/backend.h"

namespace harmonic {

// Watches a backend: Backend watched = cpu_backend(); watched.observer = &profile. It counts while it is
// active, which it is not at first. Not thread-safe; must outlive what runs on the backend.
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

  void begin() override {
    if (active_) begun_ = Clock::now();
  }
  void end(const OpCost& cost) override;

 private:
  using Clock = std::chrono::steady_clock;
  bool active_ = false;
  Clock::time_point begun_;
  std::vector<Entry> entries_;
};

}  // namespace harmonic
