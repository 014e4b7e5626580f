#include "harmonic/runtime/level_activity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "harmonic/model/inference.h"

namespace harmonic {
namespace {

constexpr size_t kMostLevels = 9;

// The level, from 0, of the field with this name; none where it is not one's recurrent numbers.
int level_of(std::string_view name) {
  if (!name.ends_with(".state")) return -1;
  if (name.find(".before.") != name.npos || name.find(".after.") != name.npos) return 0;
  const size_t at = name.find(".level");
  const size_t digit = at + 6;
  if (at == name.npos || digit + 1 >= name.size() || name[digit + 1] != '.') return -1;
  return name[digit] >= '1' && name[digit] <= '9' ? name[digit] - '1' : -1;
}

}  // namespace

LevelActivity::LevelActivity(const StateLayout& layout) : fields_(kMostLevels) {
  for (const StateLayout::Named& named : layout.fields())
    if (const int level = level_of(named.name); level >= 0)
      fields_[static_cast<size_t>(level)].push_back(named.field);
  std::erase_if(fields_, [](const auto& fields) { return fields.empty(); });
}

std::string LevelActivity::picture(const StateRows& rows, int64_t row) const {
  std::string out;
  for (const std::vector<StateField>& fields : fields_) {
    int64_t total = 0;
    for (const StateField& field : fields) total += field.size;
    double sums[kCells] = {};
    int64_t counts[kCells] = {}, at = 0;
    for (const StateField& field : fields) {
      const Tensor numbers = rows.field(field);
      for (int64_t i = 0; i < field.size; ++i, ++at) {
        sums[at * kCells / total] += std::abs(number_at(numbers, row, i));
        ++counts[at * kCells / total];
      }
    }
    for (int64_t cell = 0; cell < kCells; ++cell) {
      const double mean = counts[cell] > 0 ? sums[cell] / static_cast<double>(counts[cell]) : 0;
      const double value = mean > 0 ? 16 * (std::log2(mean) + 12) : 0;
      out += fmt::format("{:02x}", static_cast<int>(std::clamp(value, 0.0, 255.0)));
    }
  }
  return out;
}

}  // namespace harmonic
