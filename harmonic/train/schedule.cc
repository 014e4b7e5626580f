#include "harmonic/train/schedule.h"

#include <algorithm>
#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/portable_math.h"

namespace harmonic {
namespace {

constexpr double kDecayShare = 0.2;  // of the steps, in "wsd"

int64_t share_of(double share, int64_t steps) { return std::llround(share * static_cast<double>(steps)); }

}  // namespace

double learning_rate_share(const TrainConfig& config, int64_t step, int64_t steps) {
  HARMONIC_ASSERT(step >= 1 && step <= steps);
  const int64_t warm = share_of(config.warmup, steps);
  if (step <= warm) return static_cast<double>(step) / static_cast<double>(warm);
  const int64_t falling =
      config.schedule == "wsd" ? std::max(warm, steps - share_of(kDecayShare, steps)) : warm;
  if (step <= falling) return 1;
  const double way = static_cast<double>(step - falling) / static_cast<double>(steps - falling);
  const double left = config.schedule == "wsd" ? 1 - way : (1 + portable::cos_pi(way)) / 2;
  return config.min_lr + (1 - config.min_lr) * left;
}

}  // namespace harmonic
