// Bits a token by context of several models on the same targets, as `harmonic eval --contexts --json` writes
// them: a table and a chart.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace harmonic {

struct ContextCurve {
  std::string name;
  int64_t targets = 0;
  std::vector<std::pair<int64_t, double>> points;  // context and bits a token, rising contexts
};

// Throws Error naming the file, and what was expected and found.
ContextCurve read_context_curve(const std::string& name, const std::filesystem::path& path);

// A row a context, a column a curve; those after the first with their difference from it in percent. A
// context that a curve has not is left empty.
std::string context_table(const std::vector<ContextCurve>& curves);
// As a file of its own (chart_file()). Bits above `most` are cut off; 0 shows all.
std::string context_chart(const std::vector<ContextCurve>& curves, double most);

}  // namespace harmonic
