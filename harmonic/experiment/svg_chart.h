// Charts as inline SVG: lines with error bars, named where they end. Colours, and how large the letters are,
// come from the style sheet of the page, so that a chart follows its light and dark form.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/experiment/chart_axis.h"

namespace harmonic {

struct ChartPoint {
  double x = 0, y = 0;
  double error = std::numeric_limits<double>::quiet_NaN();  // half of the bar's length; NaN: there is none
  std::string tip = {};                                     // shown where a pointer rests on it
};

struct ChartSeries {
  std::string name;
  size_t color = 0;     // any number; a series has the same colour and mark in every chart
  bool markers = true;  // a mark on every point; else one of many lines, thin
  bool dashed = false;
  std::vector<ChartPoint> points;
};

struct Chart {
  std::string title, note;  // a note says what the reader cannot see: seeds, intervals, what is left out
  ChartAxis x, y;
  // Those of one name and colour are one in the legend.
  std::vector<ChartSeries> series;
  bool named = true;  // whether series are named; else what stands under them does
  // A line across at this figure, where y reaches over it; NaN: there is none.
  double reference = std::numeric_limits<double>::quiet_NaN();
};

// A <figure> with its caption, its legend (where the lines cannot be named at their ends) and the drawing;
// empty when no point can be drawn. What is not finite is left out. All texts are escaped.
std::string chart_figure(const Chart& chart);

// The drawing alone as a file of its own, with its style, which follows the viewer's light and dark form;
// empty when no point can be drawn.
std::string chart_file(const Chart& chart);

// The part of the style sheet that charts need. The page defines --surface, --ink, --muted and --grid.
std::string_view chart_style();

}  // namespace harmonic
