// What the levels of a model do at a token, as small pictures: for people to look at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harmonic/model/state.h"

namespace harmonic {

// Of the recurrent numbers of a state, those of each level from fast to slow; cells beside the levels work at
// token rate and count for the first. Models without levels have none. Immutable; any thread may call.
class LevelActivity {
 public:
  static constexpr int64_t kCells = 16;  // of a level's picture

  explicit LevelActivity(const StateLayout& layout);

  int64_t levels() const { return static_cast<int64_t>(fields_.size()); }
  // Two hexadecimal digits a cell, the levels one after the other. A cell is the mean size of a sixteenth of
  // its level's numbers, m, as 16 (log2(m) + 12), cut to 0 to 255.
  std::string picture(const StateRows& rows, int64_t row) const;

 private:
  std::vector<std::vector<StateField>> fields_;
};

}  // namespace harmonic
