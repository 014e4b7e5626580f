// How the learning rate goes over a run.
#pragma once

#include <cstdint>

#include "harmonic/train/train_config.h"

namespace harmonic {

// The learning rate of step 1..steps as a share of its peak, in [0, 1]:
//   warm-up: rises linearly over the first `warmup` of the steps, reaching 1 at the last of them;
//   "cosine": then falls along half a cosine to min_lr at the last step;
//   "wsd": then stays at 1 and falls linearly to min_lr over the last 20 % of the steps.
// The same bits on every machine: no function of the C library is in it.
double learning_rate_share(const TrainConfig& config, int64_t step, int64_t steps);

}  // namespace harmonic
