#include "harmonic/base/processors.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace harmonic {
namespace {

int processors_of_mask() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

int processors_of_groups() {
  std::ifstream file("/proc/self/cgroup");
  std::stringstream groups;
  groups << file.rdbuf();
  return processors_of_quota(groups.str(), "/sys/fs/cgroup");
}

}  // namespace

int processors_of_quota(std::string_view groups, const std::filesystem::path& root) {
  constexpr std::string_view kVersion2 = "0::/";
  const size_t line = groups.starts_with(kVersion2) ? 0 : groups.find("\n0::/");
  if (line == groups.npos) return 0;
  const size_t begin = groups.find("::/", line) + 3;
  // The quota of a group binds those within it.
  int least = 0;
  const std::filesystem::path own = groups.substr(begin, groups.find('\n', begin) - begin);
  for (std::filesystem::path group = own.relative_path();; group = group.parent_path()) {
    std::ifstream file(root / group / "cpu.max");  // "max 100000", or two counts of microseconds
    double quota = 0, period = 0;
    if (file >> quota >> period && quota > 0 && period > 0) {
      const int processors = static_cast<int>(std::min(std::ceil(quota / period), 1e6));
      least = least == 0 ? processors : std::min(least, processors);
    }
    if (group.empty()) return least;
  }
}

int available_processors() {
  static const int of_groups = processors_of_groups();
  const int of_mask = std::max(1, processors_of_mask());
  return of_groups > 0 ? std::min(of_mask, of_groups) : of_mask;
}

}  // namespace harmonic
