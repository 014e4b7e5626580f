// What a part of the load shows: rows of a Markdown table, each a figure beside what is asked of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "harmonic/base/error.h"

namespace harmonic {

// A row at once, so that a part that is cut off leaves those before it. `verdict`: nothing to hold it
// against.
enum class Verdict { none, holds, falls_short };
inline void show(const std::string& figure, const std::string& asked, const std::string& measured,
                 Verdict verdict = Verdict::none) {
  const char* words[] = {"", "yes", "**no**"};
  const std::string row =
      fmt::format("| {} | {} | {} | {} |\n", figure, asked, measured, words[static_cast<int>(verdict)]);
  std::fputs(row.c_str(), stdout);
  std::fflush(stdout);
}
inline Verdict verdict(bool holds) { return holds ? Verdict::holds : Verdict::falls_short; }

// The value that a share of the sorted ones is at or below.
inline double quantile(std::vector<double> values, double share) {
  if (values.empty()) fail("no request was measured");
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

inline std::string milliseconds(double seconds) {
  return seconds < 0.01 ? fmt::format("{:.2f} ms", seconds * 1e3) : fmt::format("{:.1f} ms", seconds * 1e3);
}

// Bytes of memory of a process, and its open descriptors, as the system counts them. Throws Error when it is
// not there.
struct ProcessUse {
  int64_t resident = 0, descriptors = 0;
};
ProcessUse use_of_process(int pid);

}  // namespace harmonic
