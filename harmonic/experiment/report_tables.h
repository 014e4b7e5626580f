// The tables of a report. The page, the Markdown and the CSV (report_text.h) are made of the same cells.
#pragma once

#include <string>
#include <vector>

#include "harmonic/experiment/results.h"

namespace harmonic {

struct TableCell {
  std::string text;  // as a person reads it: "65.5M"
  std::string raw;   // as a program does, for CSV: "65536000"; empty: the text
};

struct ReportTable {
  struct Column {
    std::string name;
    bool numeric = true;  // set to the right
  };
  std::string id;  // of letters and dashes: "results"
  std::string title, note;
  std::vector<Column> columns;
  std::vector<std::vector<TableCell>> rows;
};

// All that have rows, in the order of the page:
//   results, paired, cost, tasks, paired-tasks, evaluations, paired-evaluations, tuning, certificates,
//   left-out, by-context, by-phase, settings, runs, and paper-... with the figures of the paper that the
//   experiment is named after.
std::vector<ReportTable> report_tables(const ExperimentResults& experiment);
// Null when there is none of this id.
const ReportTable* find_table(const std::vector<ReportTable>& tables, const std::string& id);

}  // namespace harmonic
