#include "harmonic/experiment/chart_axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harmonic/experiment/number_text.h"

namespace harmonic {
namespace {

// 1, 2 or 5 times a power of ten, at least `least`.
double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

size_t characters(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

AxisScale::AxisScale(const ChartAxis& axis, const std::vector<double>& figures, double margin) : axis_(axis) {
  const bool category = axis.unit == ChartAxis::Unit::category;
  if (category) axis_.logarithmic = false;
  for (const double figure : figures)
    if (has_place(figure)) figures_.push_back(figure);
  std::sort(figures_.begin(), figures_.end());
  figures_.erase(std::unique(figures_.begin(), figures_.end()), figures_.end());
  if (category) {
    low_ = -0.5;
    high_ = std::max(0.5, static_cast<double>(axis.categories.size()) - 0.5);
    return;
  }
  if (figures_.empty()) figures_.push_back(axis_.logarithmic ? 1 : 0);
  low_ = mapped(has_place(axis.low) ? axis.low : figures_.front());
  high_ = mapped(has_place(axis.high) ? axis.high : figures_.back());
  // One figure has an axis too: some way to both sides of it.
  if (!(high_ - low_ > 1e-12 * std::max(1.0, std::abs(low_)))) {
    const double way = axis_.logarithmic ? std::log(2.0) : std::max(1e-9, 0.05 * std::abs(low_));
    low_ -= way;
    high_ += way;
  }
  const double space = margin * (high_ - low_);
  if (!has_place(axis.low)) low_ -= space;
  if (!has_place(axis.high)) high_ += space;
}

bool AxisScale::has_place(double figure) const {
  if (axis_.unit == ChartAxis::Unit::category)
    return figure >= 0 && figure < static_cast<double>(axis_.categories.size());
  return std::isfinite(figure) && (!axis_.logarithmic || figure > 0);
}

double AxisScale::mapped(double figure) const { return axis_.logarithmic ? std::log(figure) : figure; }

double AxisScale::place(double figure) const { return (mapped(figure) - low_) / (high_ - low_); }

bool AxisScale::reaches_over(double figure) const {
  return !axis_.logarithmic && low_ < figure && high_ > figure;
}

std::vector<Tick> AxisScale::ticks(int most, double width_of_character) const {
  std::vector<Tick> ticks;
  std::vector<double> figures;
  if (axis_.unit == ChartAxis::Unit::category) {
    for (size_t i = 0; i < axis_.categories.size(); ++i) figures.push_back(static_cast<double>(i));
  } else {
    figures = axis_.logarithmic ? logarithmic_ticks(most) : linear_ticks(most);
  }
  const double step = figures.size() > 1 ? figures[1] - figures[0] : 0;
  for (const double figure : figures) ticks.push_back({place(figure), label(figure, step)});
  // Every second, third, ... where labels would touch.
  for (size_t stride = 1; stride < ticks.size(); ++stride) {
    bool touch = false;
    for (size_t i = stride; i < ticks.size(); i += stride) {
      const size_t letters = characters(ticks[i].label) + characters(ticks[i - stride].label);
      const double room = width_of_character * (0.5 * static_cast<double>(letters) + 1);
      touch = touch || (width_of_character > 0 && ticks[i].place - ticks[i - stride].place < room);
    }
    if (touch) continue;
    std::vector<Tick> kept;
    for (size_t i = 0; i < ticks.size(); i += stride) kept.push_back(ticks[i]);
    return kept;
  }
  ticks.resize(std::min<size_t>(ticks.size(), 1));
  return ticks;
}

// Seconds, minutes or hours.
double AxisScale::unit_of_time() const {
  const double range = high_ - low_;
  return range >= 2 * 3600 ? 3600 : range >= 2 * 60 ? 60 : 1;
}

std::vector<double> AxisScale::linear_ticks(int most) const {
  std::vector<double> ticks;
  const double unit = axis_.unit == ChartAxis::Unit::seconds ? unit_of_time() : 1;
  const double step = unit * round_step((high_ - low_) / unit / most);
  for (double i = std::ceil(low_ / step - 1e-9); i * step <= high_ + 1e-9 * step; ++i)
    ticks.push_back(i * step + 0.0);  // no -0
  return ticks;
}

std::vector<double> AxisScale::logarithmic_ticks(int most) const {
  const auto inside = [&](double figure) {
    return mapped(figure) >= low_ - 1e-9 && mapped(figure) <= high_ + 1e-9;
  };
  std::vector<double> ticks;
  // What was measured, where that is little; of lengths, powers of two.
  const bool few = figures_.size() <= static_cast<size_t>(most);
  if (few && (axis_.unit == ChartAxis::Unit::length || axis_.unit == ChartAxis::Unit::number))
    return figures_;
  if (axis_.unit == ChartAxis::Unit::length) {
    const int first = static_cast<int>(std::ceil(low_ / std::log(2.0) - 1e-9));
    const int last = static_cast<int>(std::floor(high_ / std::log(2.0) + 1e-9));
    const int step = std::max(1, (last - first) / most + 1);
    for (int exponent = first; exponent <= last; exponent += step) ticks.push_back(std::exp2(exponent));
    if (ticks.size() > 1) return ticks;
  }
  const double ten = std::log(10.0);
  const int first = static_cast<int>(std::floor(low_ / ten)), last = static_cast<int>(std::ceil(high_ / ten));
  for (const std::vector<double>& factors :
       {std::vector<double>{1}, std::vector<double>{1, 3}, std::vector<double>{1, 2, 5},
        std::vector<double>{1, 1.5, 2, 3, 4, 5, 6, 8}}) {
    std::vector<double> finer;
    const int step = (last - first + 1 + most) / (most + 1);
    for (int exponent = first; exponent <= last; exponent += step) {
      for (const double factor : factors)
        if (const double figure = factor * std::pow(10, exponent); inside(figure)) finer.push_back(figure);
    }
    if (step > 1 && factors.size() > 1) break;  // would stand unevenly
    if (!ticks.empty() && finer.size() > static_cast<size_t>(most) + 1) break;
    ticks = std::move(finer);
    if (ticks.size() >= 4) break;
  }
  if (ticks.size() > 1) return ticks;
  // A range too narrow for round figures of a logarithm: round ones of a line do.
  const double low = std::exp(low_), high = std::exp(high_), step = round_step((high - low) / most);
  ticks.clear();
  for (double i = std::ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); ++i) ticks.push_back(i * step);
  return ticks;
}

std::string AxisScale::label(double figure, double step) const {
  switch (axis_.unit) {
    case ChartAxis::Unit::category: {
      const size_t i = static_cast<size_t>(figure);
      return i < axis_.categories.size() ? axis_.categories[i] : "";
    }
    case ChartAxis::Unit::length:
      return length_text(std::llround(figure));
    case ChartAxis::Unit::count:
      return without_zeros(count_text(figure));
    case ChartAxis::Unit::bytes:
      return without_zeros(bytes_text(figure));
    case ChartAxis::Unit::seconds:
      return fmt::format("{:.6g} {}", figure / unit_of_time(),
                         unit_of_time() == 1    ? "s"
                         : unit_of_time() == 60 ? "min"
                                                : "h");
    case ChartAxis::Unit::percent:
      return fixed_text(100 * figure, step > 0 && step < 0.0099 ? 1 : 0) + " %";
    case ChartAxis::Unit::number:
      break;
  }
  if (axis_.logarithmic || std::abs(figure) >= 1e9) return fmt::format("{:.3g}", figure);
  const int digits = step > 0 ? static_cast<int>(std::ceil(-std::log10(step) - 1e-9)) : 3;
  return fixed_text(figure, std::clamp(digits, 0, 9));
}

}  // namespace harmonic
