// The report on experiments as one HTML page that needs nothing beside it: no script, no font, no network.
#pragma once

#include <string>
#include <vector>

#include "harmonic/experiment/results.h"

namespace harmonic {

// Well-formed as XML too. The same results give the same bytes. Every text of the results is escaped.
std::string report_page(const std::vector<ExperimentResults>& experiments);

}  // namespace harmonic
