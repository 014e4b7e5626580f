#include "harmonic/cli/standard_input.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"

namespace harmonic {

bool read_some_input(std::string& to, size_t limit) {
  const size_t before = to.size();
  to.resize(before + limit);
  for (;;) {
    const ssize_t got = ::read(STDIN_FILENO, to.data() + before, limit);
    if (got < 0 && errno == EINTR) {
      stop_if_interrupted();
      continue;
    }
    if (got < 0) fail("standard input: cannot read: {}", std::strerror(errno));
    to.resize(before + static_cast<size_t>(got));
    return got > 0;
  }
}

std::string read_standard_input() {
  std::string text;
  while (read_some_input(text)) {
  }
  return text;
}

}  // namespace harmonic
