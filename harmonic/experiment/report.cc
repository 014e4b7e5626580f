#include "harmonic/experiment/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/markup.h"
#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/report_charts.h"
#include "harmonic/experiment/report_tables.h"
#include "harmonic/experiment/report_text.h"

namespace harmonic {
namespace {

constexpr std::string_view kStyle =
    R"(:root{color-scheme:light dark;--surface:#fff;--sunk:#f5f6f8;--ink:#1b2026;--muted:#5a6470;--grid:#e3e6ea;--rule:#cfd4da;--warn:#a33a00;--warn-back:#fdf1ea}
@media (prefers-color-scheme:dark){:root{--surface:#14171b;--sunk:#1c2026;--ink:#e8ebee;--muted:#9ba6b2;--grid:#2a3038;--rule:#3a424c;--warn:#ffab7a;--warn-back:#2d2019}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--surface);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1140px;margin:0 auto;padding:36px 24px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.015em;text-wrap:balance}
h2{font-size:20px;line-height:1.3;margin:52px 0 4px;padding-top:14px;border-top:1px solid var(--rule)}
h3{font-size:16px;margin:26px 0 2px}
p{margin:8px 0;max-width:75ch;text-wrap:pretty}
a{color:inherit}
section.experiment+section.experiment{margin-top:80px;padding-top:36px;border-top:3px solid var(--ink)}
.question{font-size:18px;color:var(--muted)}
.note{font-size:14px;color:var(--muted)}
.facts{display:flex;flex-wrap:wrap;gap:4px 32px;margin:18px 0 0;font-size:14px}
.facts div{min-width:0}
.facts dt{color:var(--muted)}.facts dd{margin:0}
.finding{background:var(--sunk);border-radius:8px;padding:12px 18px 13px;margin:12px 0;max-width:none}
.finding p{margin:0;font-weight:600;max-width:none}
.finding ul{margin:4px 0 0;padding:0;list-style:none;columns:2 420px;column-gap:34px;font-size:14px;color:var(--muted);font-variant-numeric:tabular-nums}
.finding li{break-inside:avoid;padding:1px 0;overflow-wrap:anywhere}
.left-out{background:var(--warn-back)}.left-out p{color:var(--warn)}
.scroll{overflow-x:auto;margin:12px 0 4px}
table{border-collapse:collapse;font-size:14px;line-height:1.35;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px;text-align:left;vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{padding-left:2px;text-align:left}
th{font-weight:600;color:var(--muted);border-bottom:1px solid var(--rule);vertical-align:bottom}
th.n{white-space:normal;min-width:72px}
.n{text-align:right}
tr.first td{border-top:1px solid var(--grid)}
tr.same td:first-child{color:var(--muted);opacity:.7}
td.long{white-space:normal;min-width:220px;max-width:560px;overflow-wrap:anywhere}
details{margin:10px 0;border-bottom:1px solid var(--grid);padding-bottom:8px}
summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
summary span{font-weight:400;color:var(--muted)}
details details{margin-left:16px;font-size:15px}
pre{background:var(--sunk);border-radius:8px;padding:12px 14px;margin:10px 0;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre-wrap;overflow-wrap:anywhere;max-height:520px;overflow-y:auto}
nav{font-size:15px;margin:14px 0 40px}nav a{margin-right:20px}
@media (max-width:640px){main{padding:22px 16px 60px}h1{font-size:25px}h2{margin-top:40px}.finding{padding:11px 14px}.charts{gap:26px}}
@media print{details{break-inside:avoid}pre{max-height:none}}
)";

constexpr size_t kLongCell = 46, kMostOpenRows = 28;

std::string cell(const ReportTable& table, size_t column, const std::string& text) {
  const bool is_long = !table.columns[column].numeric && text.size() > kLongCell;
  const char* attribute = table.columns[column].numeric ? " class=\"n\"" : is_long ? " class=\"long\"" : "";
  return fmt::format("<td{}>{}</td>", attribute, escaped(text));
}

std::string table_html(const ReportTable& table) {
  std::string html = "<div class=\"scroll\"><table>\n<thead><tr>";
  for (const ReportTable::Column& column : table.columns)
    html += fmt::format("<th scope=\"col\"{}>{}</th>", column.numeric ? " class=\"n\"" : "",
                        escaped(column.name));
  html += "</tr></thead>\n<tbody>\n";
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const bool same = i > 0 && table.rows[i][0].text == table.rows[i - 1][0].text;
    html += same ? "<tr class=\"same\">" : "<tr class=\"first\">";
    for (size_t column = 0; column < table.rows[i].size(); ++column)
      html += cell(table, column, table.rows[i][column].text);
    html += "</tr>\n";
  }
  html += "</tbody></table></div>\n";
  return html;
}

std::string noted(const std::string& note) {
  return note.empty() ? "" : fmt::format("<p class=\"note\">{}</p>\n", escaped(note));
}

class Section {
 public:
  Section(const ExperimentResults& experiment, std::string id)
      : experiment_(experiment), id_(std::move(id)), tables_(report_tables(experiment)) {}

  std::string html() {
    head();
    part("Results", comparison_charts(experiment_), {"results", "paired"});
    part("The paper's own figures", {}, {"paper-enwik8", "paper-wikitext", "paper-seeds"});
    part("Cost", cost_charts(experiment_), {"cost"});
    part("Tasks", task_charts(experiment_), {"tasks", "paired-tasks"});
    part("Other lengths and states", evaluation_charts(experiment_), {},
         {"paired-states", "evaluations", "paired-evaluations"});
    training();
    part("Where in a text", profile_charts(experiment_), {}, {"by-context", "by-phase"});
    part("Learning rates", tuning_charts(experiment_), {"tuning"});
    part("Certificates and runs", {}, {"certificates", "left-out"}, {"runs"});
    samples();
    recipes();
    return fmt::format("<section class=\"experiment\" id=\"{}\">\n{}</section>\n", id_, html_);
  }

 private:
  void head() {
    html_ += fmt::format("<h1>{}</h1>\n", escaped(experiment_.title));
    if (!experiment_.question.empty())
      html_ += fmt::format("<p class=\"question\">{}</p>\n", escaped(experiment_.question));
    std::string facts;
    const auto fact = [&](const char* name, const std::string& text) {
      if (!text.empty()) facts += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", name, escaped(text));
    };
    fact("Date", experiment_.date);
    fact("Scale", experiment_.scale);
    fact("Runs", run_counts());
    fact("Measured on", experiment_.measured_on);
    fact("Machine", machine_text(experiment_));
    fact("Build", experiment_.build);
    html_ += fmt::format("<dl class=\"facts\">\n{}</dl>\n", facts);
    for (const Finding& finding : findings(experiment_)) {
      std::string lines;
      for (const std::string& line : finding.lines) lines += fmt::format("<li>{}</li>\n", escaped(line));
      html_ +=
          fmt::format("<div class=\"finding{}\"><p>{}</p>{}</div>\n", finding.left_out ? " left-out" : "",
                      escaped(finding.headline), lines.empty() ? "" : "<ul>\n" + lines + "</ul>");
    }
  }

  std::string run_counts() const {
    int64_t runs = 0, tuning = 0;
    for (const RunResults& run : experiment_.runs) ++(run.kind == RunResults::Kind::run ? runs : tuning);
    return fmt::format("{}{}", grouped_text(runs),
                       tuning ? fmt::format(", and {} to tune", grouped_text(tuning)) : "");
  }

  // Held-out curves, and the noisier ones of training on demand where there are both.
  void training() {
    const std::vector<Chart> held_out = curve_charts(experiment_, true);
    const std::vector<Chart> of_training = curve_charts(experiment_, false);
    if (held_out.empty()) return part("Training", of_training, {});
    part("Training", held_out, {});
    std::string figures;
    for (const Chart& chart : of_training) figures += chart_figure(chart);
    if (!figures.empty())
      html_ += fmt::format(
          "<details><summary>Training loss</summary>\n<div class=\"charts\">\n{}</div></details>\n", figures);
  }

  // Charts, then tables, then those that are long or `folded`, which open on demand; nothing when there is
  // none of them.
  void part(const char* title, const std::vector<Chart>& charts, const std::vector<std::string>& tables,
            const std::vector<std::string>& folded = {}) {
    std::string body, figures;
    for (const Chart& chart : charts) figures += chart_figure(chart);
    if (!figures.empty()) body += "<div class=\"charts\">\n" + figures + "</div>\n";
    std::string long_tables;
    const auto add = [&](const std::string& id, bool open) {
      const ReportTable* table = find_table(tables_, id);
      if (!table) return;
      const std::string content = noted(table->note) + table_html(*table);
      if (open && table->rows.size() <= kMostOpenRows) {
        body += fmt::format("<h3>{}</h3>\n{}", escaped(table->title), content);
      } else {
        long_tables += fmt::format("<details><summary>{} <span>({} rows)</span></summary>\n{}</details>\n",
                                   escaped(table->title), table->rows.size(), content);
      }
    };
    for (const std::string& id : tables) add(id, true);
    for (const std::string& id : folded) add(id, false);
    body += long_tables;
    if (!body.empty()) html_ += fmt::format("<h2>{}</h2>\n{}", title, body);
  }

  // One of each series, of its first run that has one.
  void samples() {
    std::string body;
    for (const std::string& series : experiment_.series()) {
      const auto run =
          std::find_if(experiment_.runs.begin(), experiment_.runs.end(), [&](const RunResults& r) {
            return r.series() == series && !r.sample.empty() && r.kind == RunResults::Kind::run &&
                   (experiment_.plain || r.counts());
          });
      if (run == experiment_.runs.end()) continue;
      body += fmt::format("<details><summary>{} <span>{}</span></summary>\n<pre>{}</pre></details>\n",
                          escaped(series), series == run->id ? "" : escaped(run->id), escaped(run->sample));
    }
    if (!body.empty()) html_ += "<h2>Samples</h2>\n" + body;
  }

  void recipes() {
    part("Recipes", {}, {"settings"});
    std::string body;
    size_t count = 0;
    for (const RunResults& run : experiment_.runs) {
      if (run.recipe.empty()) continue;
      ++count;
      body += fmt::format("<details><summary>{}</summary>\n<pre>{}</pre></details>\n", escaped(run.id),
                          escaped(run.recipe));
    }
    if (body.empty()) return;
    if (!find_table(tables_, "settings")) html_ += "<h2>Recipes</h2>\n";
    html_ += fmt::format(
        "<details><summary>Every setting of every run <span>({})</span></summary>\n{}</details>\n", count,
        body);
  }

  const ExperimentResults& experiment_;
  std::string id_;
  std::vector<ReportTable> tables_;
  std::string html_;
};

}  // namespace

std::string report_page(const std::vector<ExperimentResults>& experiments) {
  const std::vector<std::string> ids = identifiers_of(experiments);
  std::string navigation, sections;
  for (size_t i = 0; i < experiments.size(); ++i) {
    navigation += fmt::format("<a href=\"#{}\">{}</a>\n", ids[i], escaped(experiments[i].title));
    sections += Section(experiments[i], ids[i]).html();
  }
  if (experiments.size() < 2) navigation.clear();
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>{}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n{}{}</main>\n</body>\n</html>\n",
      experiments.size() == 1 ? escaped(experiments[0].title) : "Harmonic: results", kStyle, chart_style(),
      navigation.empty() ? "" : "<nav>\n" + navigation + "</nav>\n", sections);
}

}  // namespace harmonic
