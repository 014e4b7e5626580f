#include "harmonic/cli/output.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

[[noreturn]] void failed() {
  if (errno == EPIPE) throw OutputClosed{};
  fail("standard output: cannot write: {}; the result is incomplete", std::strerror(errno));
}

}  // namespace

void write_output(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) != bytes.size()) failed();
}

void flush_output() {
  if (std::fflush(stdout) != 0) failed();
}

void prepare_output() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a file as large as is allowed is a write that fails, as on a full disk
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    // A descriptor that cannot be written fills the place, so that writing to it fails as it should.
    if (::fcntl(descriptor, F_GETFD) < 0 &&
        ::open("/dev/null", descriptor == 2 ? O_WRONLY : O_RDONLY) != descriptor)
      ::_exit(1);
  }
}

}  // namespace harmonic
