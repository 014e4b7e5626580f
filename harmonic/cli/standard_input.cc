#include "harmonic/cli/standard_input.h"

#include <unistd.h>

#include "harmonic/base/files.h"

namespace harmonic {

bool read_some_input(std::string& to, size_t limit) {
  const size_t before = to.size();
  to.resize(before + limit);
  const size_t got = read_when_ready(STDIN_FILENO, to.data() + before, limit, "standard input");
  to.resize(before + got);
  return got > 0;
}

std::string read_standard_input() {
  std::string text;
  while (read_some_input(text)) {
  }
  return text;
}

}  // namespace harmonic
