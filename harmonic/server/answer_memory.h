// How much memory answers that are being made may come to, all of them together.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "harmonic/server/api_error.h"

namespace harmonic {

// Any thread may call. Outlives what take() returns.
class AnswerMemory {
 public:
  static constexpr int64_t kMostBytes = 512 << 20;

  // Counts them while what is returned lives. Throws ApiError 503 where they are too many.
  std::shared_ptr<void> take(int64_t bytes) {
    const int64_t taken = taken_ += bytes;
    std::shared_ptr<void> held(nullptr, [this, bytes](void*) { taken_ -= bytes; });
    if (taken > kMostBytes)
      throw ApiError{503, "the server is busy: too many large answers are being made", "", "overloaded", 1};
    return held;
  }

 private:
  std::atomic<int64_t> taken_{0};
};

}  // namespace harmonic
