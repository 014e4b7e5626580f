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
  for (const double figure : figures)
    if (has_place(figure)) figures_.push_back(figure);
  std::sort(figures_.begin(), figures_.end());
  figures_.erase(std::unique(figures_.begin(), figures_.end()), figures_.end());
  const bool category = axis.unit == ChartAxis::Unit::category;
  if (category) {
    low_ = -0.5;
    high_ = std::max(0.5, static_cast<double>(axis.categories.size()) - 0.5);
    return;
  }
  if (figures_.empty()) figures_.push_back(axis.logarithmic ? 1 : 0);
  low_ = mapped(figures_.front());
  high_ = mapped(figures_.back());
  // One figure has an axis too: some way to both sides of it.
  if (high_ - low_ <= 1e-12 * std::max(1.0, std::abs(low_))) {
    const double way = axis.logarithmic ? std::log(2.0) : std::max(1e-9, 0.05 * std::abs(low_));
    low_ -= way;
    high_ += way;
  }
  const double space = margin * (high_ - low_);
  low_ = has_place(axis.low) ? mapped(axis.low) : low_ - space;
  high_ = has_place(axis.high) ? mapped(axis.high) : high_ + space;
  if (!(low_ < high_)) high_ = low_ + std::max(1e-9, std::abs(low_));
}

bool AxisScale::has_place(double figure) const {
  return std::isfinite(figure) && (!axis_.logarithmic || figure > 0);
}

double AxisScale::mapped(double figure) const { return axis_.logarithmic ? std::log(figure) : figure; }

double AxisScale::place(double figure) const { return (mapped(figure) - low_) / (high_ - low_); }

bool AxisScale::holds_zero() const { return !axis_.logarithmic && low_ < 0 && high_ > 0; }

std::vector<Tick> AxisScale::ticks(int most, double width_of_character) const {
  std::vector<Tick> ticks;
  std::vector<double> figures;
  if (axis_.unit == ChartAxis::Unit::category) {
    for (size_t i = 0; i < axis_.categories.size(); ++i) figures.push_back(static_cast<double>(i));
  } else {
    figures = axis_.logarithmic ? logarithmic_ticks(most) : linear_ticks(most);
  }
  const double step = figures.size() > 1 ? figures[1] - figures[0] : 0;
  double taken = -1;  // up to where labels stand
  for (const double figure : figures) {
    Tick tick{place(figure), label(figure, step)};
    const double half = 0.5 * width_of_character * static_cast<double>(characters(tick.label));
    if (width_of_character > 0 && tick.place - half < taken) continue;
    taken = tick.place + half + 1.2 * width_of_character;
    ticks.push_back(std::move(tick));
  }
  return ticks;
}

std::vector<double> AxisScale::linear_ticks(int most) const {
  std::vector<double> ticks;
  const double step = round_step((high_ - low_) / most);
  for (double i = std::ceil(low_ / step - 1e-9); i * step <= high_ + 1e-9 * step; ++i)
    ticks.push_back(i * step);
  return ticks;
}

std::vector<double> AxisScale::logarithmic_ticks(int most) const {
  const auto inside = [&](double figure) {
    return mapped(figure) >= low_ - 1e-9 && mapped(figure) <= high_ + 1e-9;
  };
  std::vector<double> ticks;
  if (axis_.unit == ChartAxis::Unit::length) {
    // The lengths that were measured, or where they are many, powers of two.
    if (figures_.size() <= static_cast<size_t>(most)) return figures_;
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
    const int step = std::max(1, (last - first) / most + 1);
    for (int exponent = first; exponent <= last; exponent += step) {
      for (const double factor : factors)
        if (const double figure = factor * std::pow(10, exponent); inside(figure)) finer.push_back(figure);
    }
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
      return count_text(figure);
    case ChartAxis::Unit::bytes:
      return bytes_text(figure);
    case ChartAxis::Unit::seconds:
      return seconds_text(figure);
    case ChartAxis::Unit::percent:
      return fixed_text(100 * figure, step > 0 && step < 0.0099 ? 1 : 0) + " %";
    case ChartAxis::Unit::number:
      break;
  }
  if (axis_.logarithmic) return fmt::format("{:.3g}", figure);
  const int digits = step > 0 ? static_cast<int>(std::ceil(-std::log10(step) - 1e-9)) : 3;
  return fixed_text(figure, std::clamp(digits, 0, 9));
}

}  // namespace harmonic
