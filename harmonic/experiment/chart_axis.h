// An axis of a chart: from figures to places, and the ticks that say so.
#pragma once

#include <limits>
#include <string>
#include <vector>

namespace harmonic {

struct ChartAxis {
  enum class Unit { number, length, count, bytes, seconds, percent, category };

  static constexpr double kUnset = std::numeric_limits<double>::quiet_NaN();

  std::string label;  // with its unit
  Unit unit = Unit::number;
  bool logarithmic = false;
  // Fixes an end, where it is finite; what lies beyond is cut off.
  double low = kUnset, high = kUnset;
  std::vector<std::string> categories;  // of Unit::category: figure i stands for the i-th
};

struct Tick {
  double place = 0;  // 0 to 1 along the axis
  std::string label;
};

// The axis laid over figures. A figure that is not finite, not above 0 on a logarithmic axis, or of no
// category has no place.
class AxisScale {
 public:
  // `figures` are all that are drawn; the range is theirs with a margin of this share on each side.
  AxisScale(const ChartAxis& axis, const std::vector<double>& figures, double margin);

  bool has_place(double figure) const;
  double place(double figure) const;  // 0 to 1 within the range; only of one that has a place
  // At most about `most`, in rising order. `width_of_character`, as a share of the axis: labels that would
  // touch are left out; 0 for an axis whose labels stand above one another.
  std::vector<Tick> ticks(int most, double width_of_character) const;
  bool reaches_over(double figure) const;  // false for NaN, and on logarithmic axes

 private:
  double mapped(double figure) const;
  double unit_of_time() const;
  std::vector<double> linear_ticks(int most) const;
  std::vector<double> logarithmic_ticks(int most) const;
  std::string label(double figure, double step) const;

  ChartAxis axis_;
  std::vector<double> figures_;  // distinct, rising
  double low_ = 0, high_ = 1;    // as mapped
};

}  // namespace harmonic
