#include "harmonic/experiment/report_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "harmonic/experiment/comparison.h"
#include "harmonic/experiment/markup.h"
#include "harmonic/experiment/number_text.h"
#include "harmonic/experiment/report_tables.h"

namespace harmonic {
namespace {

std::string markdown_text(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '|' || c == '\\' || c == '`' || c == '*' || c == '_' || c == '[') {
      result += '\\';
      result += c;
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '&') {
      result += "&amp;";
    } else {
      result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

std::string markdown_table(const ReportTable& table) {
  std::string text = fmt::format("### {}\n\n", markdown_text(table.title));
  std::string rule = "|";
  text += "|";
  for (const ReportTable::Column& column : table.columns) {
    text += fmt::format(" {} |", markdown_text(column.name));
    rule += column.numeric ? "---:|" : "---|";
  }
  text += "\n" + rule + "\n";
  for (const std::vector<TableCell>& row : table.rows) {
    text += "|";
    for (const TableCell& cell : row) text += fmt::format(" {} |", markdown_text(cell.text));
    text += "\n";
  }
  return text + (table.note.empty() ? "\n" : fmt::format("\n{}\n\n", markdown_text(table.note)));
}

std::string csv_text(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

void csv_row(std::string& csv, const std::vector<std::string>& items) {
  for (size_t i = 0; i < items.size(); ++i) csv += (i ? "," : "") + csv_text(items[i]);
  csv += "\n";
}

}  // namespace

std::string machine_text(const ExperimentResults& experiment) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  for (const auto& [key, value] : experiment.machine) {
    const auto* name = std::get_if<std::string>(&value.data);
    const auto* integer = std::get_if<int64_t>(&value.data);
    const auto* real = std::get_if<double>(&value.data);
    const double number = integer ? static_cast<double>(*integer) : real ? *real : 0;
    if (name) {
      if (!name->empty()) add(*name);
    } else if (key == "threads") {
      add(fmt::format("{:.0f} thread{}", number, number == 1 ? "" : "s"));
    } else if (key == "memory_bytes") {
      add(without_zeros(bytes_text(number)) + " of memory");
    } else if (key == "matrix_peak_gflops") {
      add(fmt::format("matrix products at up to {:.0f} GFLOP/s", number));
    } else {
      add(key + " " + inline_text(value));
    }
  }
  return text;
}

std::vector<std::string> identifiers_of(const std::vector<ExperimentResults>& experiments) {
  std::vector<std::string> names;
  for (const ExperimentResults& experiment : experiments) {
    const std::string name = identifier(experiment.name);
    std::string unique = name;
    for (int number = 2; std::find(names.begin(), names.end(), unique) != names.end(); ++number)
      unique = fmt::format("{}-{}", name, number);
    names.push_back(unique);
  }
  return names;
}

std::string report_markdown(const std::vector<ExperimentResults>& experiments) {
  std::string text;
  for (const ExperimentResults& experiment : experiments) {
    text += fmt::format("{}## {}\n\n", text.empty() ? "" : "\n", markdown_text(experiment.title));
    if (!experiment.question.empty()) text += markdown_text(experiment.question) + "\n\n";
    for (const auto& [name, value] : {std::pair<const char*, std::string>("Date", experiment.date),
                                      {"Build", experiment.build},
                                      {"Scale", experiment.scale},
                                      {"Measured on", experiment.measured_on},
                                      {"Machine", machine_text(experiment)}})
      if (!value.empty()) text += fmt::format("- {}: {}\n", name, markdown_text(value));
    text += "\n";
    for (const Finding& finding : findings(experiment)) {
      text += markdown_text(finding.headline) + "\n\n";
      for (const std::string& line : finding.lines) text += "- " + markdown_text(line) + "\n";
      text += "\n";
    }
    for (const ReportTable& table : report_tables(experiment)) text += markdown_table(table);
  }
  return text;
}

std::string report_csv(const std::vector<ExperimentResults>& experiments) {
  std::string csv;
  csv_row(csv, {"experiment",
                "run",
                "kind",
                "status",
                "certificate",
                "series",
                "trained_length",
                "seed",
                "lr_factor",
                "core_parameters",
                "embedding_parameters",
                "multiply_adds",
                "head_multiply_adds",
                "state_bytes",
                "train_tokens",
                "steps",
                "tokens_per_second",
                "peak_memory_bytes",
                "seconds",
                "computed_on",
                "length",
                "state",
                "bits_per_token",
                "bits_per_byte",
                "task",
                "group",
                "accuracy"});
  const auto text = [](double value) { return fmt::format("{}", value); };
  for (const ExperimentResults& experiment : experiments) {
    for (const RunResults& run : experiment.runs) {
      const char* status = !run.planned                                  ? "not planned"
                           : run.status == RunResults::Status::finished  ? "finished"
                           : run.status == RunResults::Status::diverged  ? "diverged"
                           : run.status == RunResults::Status::not_begun ? "not begun"
                                                                         : "unfinished";
      const std::vector<std::string> common = {experiment.name,
                                               run.id,
                                               run.kind == RunResults::Kind::run ? "run" : "tune",
                                               status,
                                               run.certificate,
                                               run.series(),
                                               run.axis("length"),
                                               run.axis("seed"),
                                               run.axis("lr_factor"),
                                               std::to_string(run.core_parameters),
                                               std::to_string(run.embedding_parameters),
                                               text(run.multiply_adds),
                                               text(run.head_multiply_adds),
                                               std::to_string(run.state_bytes),
                                               std::to_string(run.train_tokens),
                                               std::to_string(run.steps),
                                               text(run.tokens_per_second),
                                               std::to_string(run.peak_memory_bytes),
                                               text(run.seconds),
                                               run.computed_on};
      const auto row = [&](const std::vector<std::string>& rest) {
        std::vector<std::string> items = common;
        items.insert(items.end(), rest.begin(), rest.end());
        csv_row(csv, items);
      };
      for (const LengthResults& r : run.lengths)
        row({std::to_string(r.length), r.state, text(r.bits_per_token), text(r.bits_per_byte), "", "", ""});
      for (const TaskResults& t : run.tasks) row({"", "", "", "", t.task, t.group, text(t.accuracy)});
      if (run.lengths.empty() && run.tasks.empty()) row({"", "", "", "", "", "", ""});
    }
  }
  return csv;
}

std::vector<std::pair<std::string, std::string>> report_csv_files(
    const std::vector<ExperimentResults>& experiments) {
  std::vector<std::pair<std::string, std::string>> files;
  const std::vector<std::string> names = identifiers_of(experiments);
  for (size_t i = 0; i < experiments.size(); ++i) {
    for (const ReportTable& table : report_tables(experiments[i])) {
      std::string csv;
      std::vector<std::string> items;
      for (const ReportTable::Column& column : table.columns) items.push_back(column.name);
      csv_row(csv, items);
      for (const std::vector<TableCell>& row : table.rows) {
        items.clear();
        for (const TableCell& cell : row) items.push_back(cell.raw.empty() ? cell.text : cell.raw);
        csv_row(csv, items);
      }
      files.emplace_back(names[i] + "-" + table.id + ".csv", std::move(csv));
    }
  }
  return files;
}

}  // namespace harmonic
