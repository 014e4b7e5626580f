#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/report_charts.h"
#include "harmonic/experiment/svg_chart.h"
#include "tests/experiment_fixture.h"
#include "tests/markup_check.h"

namespace harmonic {
namespace {

TEST(Report, ThinnedCurvesKeepTheirMeanAndLeaveOutWhatIsNotFinite) {
  std::vector<StepMetrics> steps;
  for (int i = 0; i < 1000; ++i) {
    StepMetrics step;
    step.tokens = i;
    step.bits_per_byte = i == 3 ? std::numeric_limits<double>::quiet_NaN() : i;
    steps.push_back(step);
  }
  const std::vector<CurvePoint> points = thinned(steps, 10);
  ASSERT_EQ(points.size(), 10u);
  EXPECT_DOUBLE_EQ(points[9].bits_per_byte, 949.5);
  EXPECT_DOUBLE_EQ(points[9].tokens, 949.5);
  EXPECT_DOUBLE_EQ(points[0].bits_per_byte, (4950 - 3) / 99.0);
  EXPECT_TRUE(thinned({}, 10).empty());
}

TEST(SvgChart, ChartsOfOnePointOfConstantsAndOfWhatIsNotFiniteAreFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::vector<ChartPoint>> data = {
      {{1024, 2}},
      {{1024, 2, 0.1, "tip"}, {4096, 2, nan, "tip"}, {16384, 2, 0, "tip"}},
      {{1024, 0}, {1024, 0}},
      {{0, 1}, {-5, 2}, {1024, -3}},
      {{nan, 2}, {1024, nan}, {4096, infinity}, {1024, 1}},
      {{1, 1e-300}, {2, 1e300}},
      {{1e-12, 5}, {1 + 1e-15, 5 + 1e-15}},
  };
  for (const bool logarithmic : {false, true}) {
    for (const ChartAxis::Unit unit :
         {ChartAxis::Unit::number, ChartAxis::Unit::length, ChartAxis::Unit::count, ChartAxis::Unit::bytes,
          ChartAxis::Unit::seconds, ChartAxis::Unit::percent, ChartAxis::Unit::category}) {
      for (const auto& points : data) {
        Chart chart;
        chart.title = "<a>";
        chart.x.unit = unit;
        chart.x.logarithmic = chart.y.logarithmic = logarithmic;
        chart.x.categories = {"one", "two"};
        chart.series = {{"a", 0, true, false, points}, {"b", 1, true, false, {{1024, 3}}}};
        const std::string figure = chart_figure(chart);
        EXPECT_EQ(flaw_of(figure), "");
        EXPECT_FALSE(has(figure, "nan") || has(figure, "inf")) << figure;
        EXPECT_LT(figure.size(), 20'000u);
      }
    }
  }
  EXPECT_EQ(chart_figure(Chart{}), "");
  Chart nothing;
  nothing.series = {{"a", 0, true, false, {{nan, nan}}}};
  EXPECT_EQ(chart_figure(nothing), "");
}

TEST(SvgChart, TicksAreRoundAndTheirLabelsDoNotTouch) {
  const auto labels = [](const ChartAxis& axis, const std::vector<double>& figures, double width = 0.02) {
    std::string text;
    for (const Tick& tick : AxisScale(axis, figures, 0.03).ticks(6, width)) text += tick.label + " ";
    return text;
  };
  ChartAxis axis;
  EXPECT_EQ(labels(axis, {1.8, 1.97}), "1.80 1.85 1.90 1.95 ");
  axis.low = 0;
  EXPECT_EQ(labels(axis, {3, 10}), "0 2 4 6 8 10 ");
  axis.unit = ChartAxis::Unit::seconds;
  EXPECT_EQ(labels(axis, {9000}), "0 h 0.5 h 1 h 1.5 h 2 h 2.5 h ");
  axis.unit = ChartAxis::Unit::count;
  EXPECT_EQ(labels(axis, {20e6}), "0 5M 10M 15M 20M ");
  axis = {};
  axis.logarithmic = true;
  axis.unit = ChartAxis::Unit::length;
  EXPECT_EQ(labels(axis, {1024, 4096, 65536, 4096}), "1K 4K 64K ");
  axis.unit = ChartAxis::Unit::bytes;
  EXPECT_EQ(labels(axis, {12e3, 130e6}), "10 KB 100 KB 1 MB 10 MB 100 MB ");
  axis = {};
  axis.unit = ChartAxis::Unit::category;
  axis.categories = {"long-name-0", "long-name-1", "long-name-2", "long-name-3"};
  EXPECT_EQ(labels(axis, {0, 3}, 0.03), "long-name-0 long-name-2 ");
}

TEST(NumberText, NumbersReadAsAPersonWritesThem) {
  EXPECT_EQ(grouped_text(1234567), "1,234,567");
  EXPECT_EQ(length_text(4096), "4K");
  EXPECT_EQ(length_text(1000), "1,000");
  EXPECT_EQ(length_text(1 << 20), "1M");
  EXPECT_EQ(count_text(65'536'000), "65.5M");
  EXPECT_EQ(count_text(999'999), "1.00M");
  EXPECT_EQ(without_zeros("1.00M"), "1M");
  EXPECT_EQ(without_zeros("8.50 GB"), "8.5 GB");
  EXPECT_EQ(bytes_text(12296), "12.3 KB");
  EXPECT_EQ(seconds_text(74), "74.0 s");
  EXPECT_EQ(signed_text(-0.00001, 3), "0.000");
  EXPECT_EQ(signed_text(0.25, 2), "+0.25");
  EXPECT_EQ(fixed_text(-1.5, 1), "\u22121.5");
}

}  // namespace
}  // namespace harmonic
