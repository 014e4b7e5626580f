// Tables of the runs themselves: which count, what each came to, and how their settings differ.
#pragma once

#include "harmonic/experiment/report_tables.h"

namespace harmonic {

// Any of them may be without rows.
ReportTable certificate_table(const ExperimentResults& experiment);
ReportTable left_out_table(const ExperimentResults& experiment);
ReportTable run_table(const ExperimentResults& experiment);
// The settings in which series differ, or their runs among each other.
ReportTable settings_table(const ExperimentResults& experiment);

}  // namespace harmonic
