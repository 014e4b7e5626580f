#include "harmonic/experiment/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "harmonic/experiment/markup.h"

namespace harmonic {
namespace {

// In units of the drawing. The page sets letters at 12 units, on a phone at 15.5: room is left for those.
constexpr double kWidth = 540, kHeight = 330, kTop = 30, kBottom = 52, kCharacter = 8.2, kBoldCharacter = 9.4,
                 kLine = 18;
constexpr size_t kColors = 8, kLongestName = 16, kMostNames = 7;

struct Frame {
  double left, right, top, bottom;  // of the plot
  double width() const { return right - left; }
  double height() const { return bottom - top; }
};

struct Name {
  std::string text;
  size_t color;
  double x, y;    // where its line ends
  double placed;  // where it is written
};

size_t length_of(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// The mark of a colour, so that nobody needs to see colours.
std::string mark(size_t color, double x, double y) {
  const auto polygon = [](std::initializer_list<std::pair<double, double>> corners) {
    std::string points;
    for (const auto& [cx, cy] : corners)
      points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", cx, cy);
    return fmt::format("<polygon points=\"{}\"/>", points);
  };
  switch (color % kColors) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.2\"/>", x, y);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"7.6\" height=\"7.6\"/>", x - 3.8, y - 3.8);
    case 2:
      return polygon({{x, y - 5.4}, {x + 5.4, y}, {x, y + 5.4}, {x - 5.4, y}});
    case 3:
      return polygon({{x, y - 5}, {x + 5, y + 4}, {x - 5, y + 4}});
    case 4:
      return polygon({{x, y + 5}, {x + 5, y - 4}, {x - 5, y - 4}});
    case 5:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"10.4\" height=\"5\"/>", x - 5.2, y - 2.5);
    case 6:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"5\" height=\"10.4\"/>", x - 2.5, y - 5.2);
    default:
      return polygon({{x - 2, y - 5},
                      {x + 2, y - 5},
                      {x + 2, y - 2},
                      {x + 5, y - 2},
                      {x + 5, y + 2},
                      {x + 2, y + 2},
                      {x + 2, y + 5},
                      {x - 2, y + 5},
                      {x - 2, y + 2},
                      {x - 5, y + 2},
                      {x - 5, y - 2},
                      {x - 2, y - 2}});
  }
}

// Dashes are for series that are marked so; colours that come again are dotted, the third time in both.
std::string pattern_of(const ChartSeries& series) {
  if (series.dashed) return " dashed";
  return series.color < kColors ? "" : series.color < 2 * kColors ? " dotted" : " dotted-dashed";
}

std::string legend(const Chart& chart) {
  std::vector<std::pair<std::string, size_t>> entries;
  std::string result;
  for (const ChartSeries& series : chart.series) {
    const std::pair<std::string, size_t> entry(series.name, series.color);
    if (std::find(entries.begin(), entries.end(), entry) != entries.end()) continue;
    entries.push_back(entry);
    result += fmt::format(
        "<span class=\"key c{}\"><svg viewBox=\"0 0 26 14\" aria-hidden=\"true\"><path class=\"line{}\" "
        "d=\"M1,7H25\"/>{}</svg>{}</span>",
        series.color % kColors, pattern_of(series),
        series.markers ? "<g class=\"mark\">" + mark(series.color, 13, 7) + "</g>" : "",
        escaped(series.name));
  }
  return entries.size() < 2 ? "" : fmt::format("<div class=\"legend\">{}</div>\n", result);
}

class Drawing {
 public:
  explicit Drawing(const Chart& chart)
      : chart_(chart), x_(chart.x, figures(true), 0.03), y_(chart.y, figures(false), 0.07) {
    for (const ChartSeries& series : chart_.series) {
      drawn_ += static_cast<size_t>(std::count_if(series.points.begin(), series.points.end(),
                                                  [&](const ChartPoint& p) { return has(p); }));
    }
    named_ = can_be_named();
    y_ticks_ = y_.ticks(6, 0);
    size_t longest = 1, name = 0;
    for (const Tick& tick : y_ticks_) longest = std::max(longest, length_of(tick.label));
    for (const ChartSeries& series : chart_.series) name = std::max(name, length_of(series.name));
    frame_.left = 12 + kCharacter * static_cast<double>(longest);
    frame_.right = kWidth - (named_ ? 18 + kBoldCharacter * static_cast<double>(name) : 14);
    frame_.top = kTop;
    frame_.bottom = kHeight - kBottom;
  }

  bool empty() const { return drawn_ == 0; }
  bool named() const { return named_; }

  std::string svg() {
    std::string axes = y_axis() + x_axis(), lines, tips;
    std::vector<Name> names;
    // What goes beyond an end that was fixed is cut off; else nothing does, and marks may touch the border.
    const bool cut = std::isfinite(chart_.y.low) || std::isfinite(chart_.y.high);
    for (size_t i = 0; i < chart_.series.size(); ++i) {
      lines += line(i, &tips, &names);
    }
    return fmt::format(
        "<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n{}"
        "<svg x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" viewBox=\"{:.1f} {:.1f} {:.1f} "
        "{:.1f}\" style=\"overflow:{}\">\n{}</svg>\n{}{}</svg>\n",
        kWidth, kHeight, escaped(chart_.title), axes, frame_.left, frame_.top, frame_.width(),
        frame_.height(), frame_.left, frame_.top, frame_.width(), frame_.height(), cut ? "hidden" : "visible",
        lines, name_texts(std::move(names)), tips);
  }

 private:
  std::vector<double> figures(bool horizontal) const {
    std::vector<double> all;
    for (const ChartSeries& series : chart_.series) {
      for (const ChartPoint& point : series.points) {
        if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
        all.push_back(horizontal ? point.x : point.y);
        if (horizontal || !std::isfinite(point.error)) continue;
        all.push_back(point.y - point.error);
        all.push_back(point.y + point.error);
      }
    }
    return all;
  }

  bool has(const ChartPoint& point) const { return x_.has_place(point.x) && y_.has_place(point.y); }
  // Names at the ends of lines: for few series with marks, all of them of their own name.
  bool can_be_named() const {
    if (!chart_.named) return false;
    std::vector<std::string> names;
    for (const ChartSeries& series : chart_.series) {
      if (!series.markers || length_of(series.name) > kLongestName) return false;
      names.push_back(series.name);
    }
    std::sort(names.begin(), names.end());
    return names.size() >= 2 && names.size() <= kMostNames &&
           std::unique(names.begin(), names.end()) == names.end();
  }

  double at_x(double figure) const { return frame_.left + frame_.width() * x_.place(figure); }
  double at_y(double figure) const { return frame_.bottom - frame_.height() * y_.place(figure); }

  std::string y_axis() const {
    std::string result =
        fmt::format("<text class=\"label\" x=\"2\" y=\"14\">{}</text>\n", escaped(chart_.y.label));
    for (const Tick& tick : y_ticks_) {
      const double y = frame_.bottom - frame_.height() * tick.place;
      result += fmt::format(
          "<path class=\"grid\" d=\"M{:.1f},{:.1f}H{:.1f}\"/><text x=\"{:.1f}\" y=\"{:.1f}\" "
          "class=\"end\">{}</text>\n",
          frame_.left, y, frame_.right, frame_.left - 7, y + 4.5, escaped(tick.label));
    }
    if (y_.reaches_over(chart_.reference))
      result += fmt::format("<path class=\"zero\" d=\"M{:.1f},{:.1f}H{:.1f}\"/>\n", frame_.left,
                            at_y(chart_.reference), frame_.right);
    return result;
  }

  std::string x_axis() const {
    std::string result = fmt::format("<path class=\"axis\" d=\"M{:.1f},{:.1f}H{:.1f}\"/>\n", frame_.left,
                                     frame_.bottom, frame_.right);
    for (const Tick& tick : x_.ticks(8, kCharacter / frame_.width())) {
      const double x = frame_.left + frame_.width() * tick.place;
      result += fmt::format(
          "<path class=\"axis\" d=\"M{:.1f},{:.1f}v4\"/><text x=\"{:.1f}\" y=\"{:.1f}\" "
          "class=\"middle\">{}</text>\n",
          x, frame_.bottom, x, frame_.bottom + 20, escaped(tick.label));
    }
    return result + fmt::format("<text class=\"label middle\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
                                0.5 * (frame_.left + frame_.right), kHeight - 7, escaped(chart_.x.label));
  }

  // Bars in one place would hide each other: each series stands a little aside.
  double aside(size_t series) const {
    bool bars = false;
    for (const ChartSeries& s : chart_.series)
      for (const ChartPoint& p : s.points) bars = bars || std::isfinite(p.error);
    const double count = static_cast<double>(chart_.series.size());
    if (!bars || chart_.series.size() > 8) return 0;
    return (static_cast<double>(series) - 0.5 * (count - 1)) * std::min(5.0, 24 / count);
  }

  std::string line(size_t index, std::string* tips, std::vector<Name>* names) const {
    const ChartSeries& series = chart_.series[index];
    const double shift = aside(index);
    std::string points, bars, marks;
    size_t count = 0;
    Name name{series.name, series.color, 0, 0, 0};
    for (const ChartPoint& point : series.points) {
      if (!has(point)) continue;
      const double x = at_x(point.x) + shift, y = at_y(point.y);
      // A line that leaves the plot is followed a little way only.
      const double kept = std::clamp(y, -kHeight, 2 * kHeight);
      points += fmt::format("{}{:.1f},{:.1f}", points.empty() ? "" : " ", x, kept);
      ++count;
      if (y_.has_place(point.y - point.error) && y_.has_place(point.y + point.error))
        bars += error_bar(x, at_y(point.y - point.error), at_y(point.y + point.error));
      if (series.markers) marks += mark(series.color, x, kept);
      if (!point.tip.empty())
        *tips += fmt::format(
            "<circle class=\"tip\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"9\"><title>{}</title></circle>\n", x, kept,
            escaped(point.tip));
      name.x = x;
      name.y = name.placed = std::clamp(y, frame_.top, frame_.bottom);
    }
    if (count == 0) return "";
    names->push_back(name);
    std::string result = fmt::format("<g class=\"c{}\">", series.color % kColors);
    if (!bars.empty()) result += fmt::format("<g class=\"bar\">{}</g>", bars);
    if (count > 1)
      result += fmt::format("<polyline class=\"line{}{}\" points=\"{}\">{}</polyline>",
                            series.markers ? "" : " thin", pattern_of(series), points,
                            series.markers ? "" : "<title>" + escaped(series.name) + "</title>");
    // A line of one point would not be seen.
    if (count == 1 && !series.markers) marks = mark(series.color, name.x, name.y);
    if (!marks.empty()) result += fmt::format("<g class=\"mark\">{}</g>", marks);
    return result + "</g>\n";
  }

  static std::string error_bar(double x, double low, double high) {
    return fmt::format("<path d=\"M{0:.1f},{2:.1f}V{3:.1f}M{1:.1f},{2:.1f}h6M{1:.1f},{3:.1f}h6\"/>", x, x - 3,
                       low, high);
  }

  // Names keep the order of their lines' ends and a line's height between each other.
  std::string name_texts(std::vector<Name> names) const {
    if (!named_) return "";
    std::stable_sort(names.begin(), names.end(), [](const Name& a, const Name& b) { return a.y < b.y; });
    // Those that would touch form a group around the middle of their ends.
    std::vector<std::vector<size_t>> groups;
    const auto middle = [&](const std::vector<size_t>& group) {
      double sum = 0;
      for (const size_t i : group) sum += names[i].y;
      const double half = 0.5 * kLine * static_cast<double>(group.size() - 1);
      return std::clamp(sum / static_cast<double>(group.size()), frame_.top + half,
                        std::max(frame_.top + half, frame_.bottom - half));
    };
    const auto reach = [](const std::vector<size_t>& group) {
      return 0.5 * kLine * static_cast<double>(group.size());
    };
    for (size_t i = 0; i < names.size(); ++i) {
      groups.push_back({i});
      while (groups.size() > 1) {
        std::vector<size_t>& above = groups[groups.size() - 2];
        if (middle(groups.back()) - reach(groups.back()) >= middle(above) + reach(above)) break;
        above.insert(above.end(), groups.back().begin(), groups.back().end());
        groups.pop_back();
      }
    }
    std::string result;
    const double edge = frame_.right + 12;
    for (const std::vector<size_t>& group : groups) {
      for (size_t i = 0; i < group.size(); ++i) {
        Name& name = names[group[i]];
        name.placed = middle(group) - reach(group) + kLine * (static_cast<double>(i) + 0.5);
        result += fmt::format(
            "<g class=\"c{}\"><path class=\"lead\" d=\"M{:.1f},{:.1f}L{:.1f},{:.1f}\"/><text class=\"name\" "
            "x=\"{:.1f}\" y=\"{:.1f}\">{}</text></g>\n",
            name.color % kColors, name.x + 7, name.y, edge - 2, name.placed, edge + 2, name.placed + 4.5,
            escaped(name.text));
      }
    }
    return result;
  }

  const Chart& chart_;
  AxisScale x_, y_;
  size_t drawn_ = 0;
  bool named_ = false;
  std::vector<Tick> y_ticks_;
  Frame frame_{};
};

}  // namespace

std::string chart_figure(const Chart& chart) {
  Drawing drawing(chart);
  if (drawing.empty()) return "";
  return fmt::format("<figure class=\"chart\">\n<figcaption><b>{}</b>{}</figcaption>\n{}{}</figure>\n",
                     escaped(chart.title),
                     chart.note.empty() ? "" : fmt::format("<span>{}</span>", escaped(chart.note)),
                     drawing.named() || !chart.named ? "" : legend(chart), drawing.svg());
}

std::string chart_file(const Chart& chart) {
  Drawing drawing(chart);
  if (drawing.empty()) return "";
  // Names that have no place at the ends of lines stand above them.
  std::string names;
  double above = 0;
  constexpr double kNameHeight = 18;
  for (size_t i = 0; !drawing.named() && i < chart.series.size(); ++i, above += kNameHeight) {
    const ChartSeries& series = chart.series[i];
    const double y = above + 0.5 * kNameHeight;
    names += fmt::format(
        "<g class=\"c{}\"><path class=\"line{}\" d=\"M12,{:.1f}H38\"/><g class=\"mark\">{}</g>"
        "<text class=\"name\" x=\"46\" y=\"{:.1f}\">{}</text></g>\n",
        series.color % kColors, pattern_of(series), y, series.markers ? mark(series.color, 25, y) : "", y + 4,
        escaped(series.name));
  }
  // The page's rule for the size of drawings is not for the parts of one.
  std::string style(chart_style());
  const std::string_view sizes = ".chart svg{display:block;width:100%;height:auto;overflow:visible}\n";
  if (const size_t rule = style.find(sizes); rule != style.npos) style.erase(rule, sizes.size());
  std::string drawn = drawing.svg();
  drawn.erase(0, drawn.find('>') + 1);
  drawn.erase(drawn.rfind("</svg>"));
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" "
      "aria-label=\"{}\">\n"
      "<style>:root{{--surface:#fff;--ink:#1b2026;--muted:#5a6470;--grid:#e3e6ea;background:var(--surface);"
      "font-family:system-ui,sans-serif}}\n"
      "@media (prefers-color-scheme:dark){{:root{{--surface:#14171b;--ink:#e8ebee;--muted:#9ba6b2;"
      "--grid:#2a3038}}}}\n{}</style>\n{}<g transform=\"translate(0,{:.0f})\">{}</g>\n</svg>\n",
      kWidth, kHeight + above, escaped(chart.title), style, names, above, drawn);
}

std::string_view chart_style() {
  return R"(:root{--c0:#1a66b0;--c1:#c8480b;--c2:#0b7d5e;--c3:#8a45a8;--c4:#8a6900;--c5:#56636f;--c6:#b8256f;--c7:#0c7489}
@media (prefers-color-scheme:dark){:root{--c0:#6cb2f7;--c1:#ff9656;--c2:#4fcfa5;--c3:#cf9df0;--c4:#e0b83c;--c5:#a7b4c2;--c6:#ff8dbd;--c7:#5ac8de}}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:30px 34px;margin:18px 0}
.chart{margin:0;min-width:0;max-width:620px}
.chart figcaption b{display:block;font-size:15px;font-weight:650;color:var(--ink)}
.chart figcaption span{display:block;font-size:13px;line-height:1.4;color:var(--muted);margin-top:1px}
.chart svg{display:block;width:100%;height:auto;overflow:visible}
.chart text{font-size:12px;fill:var(--muted);font-variant-numeric:tabular-nums}
.chart text.label{fill:var(--muted)}
.chart text.end{text-anchor:end}.chart text.middle{text-anchor:middle}
.chart text.name{fill:var(--c);font-weight:600}
.grid{stroke:var(--grid);stroke-width:1;fill:none}
.axis{stroke:var(--muted);stroke-width:1;fill:none;opacity:.7}
.zero{stroke:var(--ink);stroke-width:1.2;fill:none;opacity:.75}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.thin{stroke-width:1.3;opacity:.72}
.dashed{stroke-dasharray:5 4}
.dotted{stroke-dasharray:1 4}
.dotted-dashed{stroke-dasharray:8 4 1 4}
.bar{fill:none;stroke:var(--c);stroke-width:1.4}
.mark{fill:var(--c);stroke:var(--surface);stroke-width:1.4}
.lead{stroke:var(--c);stroke-width:1;opacity:.45;fill:none}
.tip{fill:transparent}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:6px 0 2px;font-size:13px;color:var(--ink)}
.key{display:inline-flex;align-items:center;gap:6px}
.chart .key svg{width:26px;height:14px;flex:none}
@media (max-width:640px){.chart text{font-size:15.5px}}
)";
}

}  // namespace harmonic
