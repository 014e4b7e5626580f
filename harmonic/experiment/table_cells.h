// Figures as the cells of tables.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <vector>

#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/report_tables.h"

namespace harmonic::table_cells {

using Row = std::vector<TableCell>;
inline constexpr const char* kNone = "\u2013";  // what is not told

inline TableCell plain(std::string text) { return {std::move(text), ""}; }
inline TableCell exact(std::string text, double value) { return {std::move(text), fmt::format("{}", value)}; }
inline TableCell fixed(double value, int digits) {
  return std::isfinite(value) ? exact(fixed_text(value, digits), value) : plain(kNone);
}
inline TableCell difference(double value, int digits) {
  return std::isfinite(value) ? exact(signed_text(value, digits), value) : plain(kNone);
}
// A size or count of which 0 is "not told".
template <typename Text>
inline TableCell told(double value, Text text) {
  return value > 0 ? exact(text(value), value) : plain(kNone);
}
inline TableCell grouped(double value) {
  return told(value, [](double v) { return grouped_text(std::llround(v)); });
}
inline TableCell length_cell(int64_t length) {
  return told(static_cast<double>(length), [&](double) { return length_text(length); });
}

}  // namespace harmonic::table_cells
