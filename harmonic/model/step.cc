#include "harmonic/model/step.h"

#include <algorithm>

namespace harmonic {

Step::Step(Tape& tape, const Segments& segments, const StateRows& states_in, const StateRows& states_out,
           const StateRows& d_out, const StateRows& d_in)
    : tape_(tape), segments_(segments), in_(states_in), out_(states_out), d_out_(d_out), d_in_(d_in) {
  HARMONIC_ASSERT(in_.count == segments.count && out_.count == segments.count);
  HARMONIC_ASSERT(!tape.recording() || d_in_);
  for (int64_t b = 0; b < segments.count; ++b)
    out_.position(b) = in_.position(b) + static_cast<uint64_t>(segments.length(b));
}

const LevelRows& Step::level(int64_t stride) {
  for (int i = 0; i < level_count_; ++i)
    if (levels_[i].stride == stride) return levels_[i];
  HARMONIC_ASSERT(level_count_ < HarmonicConfig::kMaxLevels);
  Arena& memory = tape_.memory();
  const int64_t count = segments_.count;
  auto* offsets = memory.allocate_array<int64_t>(count + 1);
  auto* phases = memory.allocate_array<int64_t>(count);
  auto* fresh = memory.allocate_array<uint8_t>(count);
  offsets[0] = 0;
  for (int64_t b = 0; b < count; ++b) {
    const int64_t from = position(b);
    offsets[b + 1] = offsets[b] + (from + segments_.length(b)) / stride - from / stride;
    phases[b] = from % stride;
    fresh[b] = from < stride;
  }
  LevelRows& level = levels_[level_count_++];
  level = {stride, {offsets, count}, phases, fresh};
  return level;
}

void Step::copy_states() {
  HARMONIC_ASSERT(!tape_.recording());
  // All that is no position is one field.
  const int64_t numbers = (in_.layout->bytes_before_caches() - 8) / size_of(in_.layout->dtype());
  const StateField all{0, numbers};
  if (numbers > 0) tape_.run(Add{in_.field(all), {}, out_.field(all)});
  has_copied_states_ = true;
}

const int64_t* Step::positions() {
  if (!positions_) {
    auto* positions = tape_.memory().allocate_array<int64_t>(segments_.count);
    for (int64_t b = 0; b < segments_.count; ++b) positions[b] = position(b);
    positions_ = positions;
  }
  return positions_;
}

const int64_t* Step::positions_in_cache(const StateSlots& cache) {
  if (cache.in) return positions();
  auto* zeros = tape_.memory().allocate_array<int64_t>(segments_.count);
  std::fill_n(zeros, segments_.count, int64_t{0});
  return zeros;
}

Tensor Step::rotary_table(const RotaryFrequencies& frequencies) {
  const auto count = static_cast<int64_t>(frequencies.values.size());
  for (Rotary& rotary : rotary_) {
    if (!rotary.table) {
      rotary = {&frequencies, tape_.memory().tensor(segments_.rows(), 2 * count, tape_.dtype())};
      tape_.run(RotaryTable{segments_, positions(), frequencies.values.data(), rotary.table,
                            frequencies.scale, frequencies.growth, frequencies.context});
      return rotary.table;
    }
    if (*rotary.frequencies == frequencies) return rotary.table;
  }
  HARMONIC_ASSERT(!"layers turn by at most two sets of frequencies");
  return {};
}

const int64_t* Step::phases(int64_t fast_stride, int64_t slow_stride) {
  auto* phases = tape_.memory().allocate_array<int64_t>(segments_.count);
  for (int64_t b = 0; b < segments_.count; ++b)
    phases[b] = position(b) / fast_stride % (slow_stride / fast_stride);
  return phases;
}

}  // namespace harmonic
