// Published figures of the paper (arXiv 2606.24650), to stand beside an experiment that repeats one of its
// own.
#pragma once

#include <string_view>
#include <vector>

#include "harmonic/experiment/report_tables.h"

namespace harmonic {

// The tables of the paper that answer the question of the experiment of this name; none for most. They are in
// bits per token of another corpus and tokenizer.
std::vector<ReportTable> paper_tables(std::string_view experiment);

}  // namespace harmonic
