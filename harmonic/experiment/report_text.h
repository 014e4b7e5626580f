// The report as plain text: Markdown and CSV.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harmonic/experiment/results.h"

namespace harmonic {

// The whole report in Markdown: what was asked and found, and the tables.
std::string report_markdown(const std::vector<ExperimentResults>& experiments);
// A file for each table by its name, "<experiment>-<table>.csv"; the first row names the columns.
std::vector<std::pair<std::string, std::string>> report_csv_files(
    const std::vector<ExperimentResults>& experiments);
// One file: a row for each figure of each run (every evaluation, every task; runs without any have one row).
std::string report_csv(const std::vector<ExperimentResults>& experiments);

// "EPYC, 2 threads, AVX3, 8 GB of memory": what the experiment says of its machine.
std::string machine_text(const ExperimentResults& experiment);
// A name for each experiment within the page and among files, no two the same.
std::vector<std::string> identifiers_of(const std::vector<ExperimentResults>& experiments);

}  // namespace harmonic
