// The program's one entry and its exits: 0 done, 1 failed, 2 wrong usage, 3 diverged, 130 interrupted.
#include <unistd.h>

#include <algorithm>
#include <new>

#include "harmonic/base/divergence.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/base/process.h"
#include "harmonic/cli/command.h"

namespace {

// Errors are one line whatever the message holds (a file name may hold anything), written past every buffer.
int report(std::string message, int status) {
  harmonic::end_progress();
  std::replace_if(
      message.begin(), message.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  // Control characters beyond ASCII, U+0080 to U+009F, which a terminal may obey.
  for (size_t i = 0; i + 1 < message.size(); ++i)
    if (const auto next = static_cast<unsigned char>(message[i + 1]);
        message[i] == '\xc2' && next >= 0x80 && next < 0xa0)
      message.replace(i, 2, " ");
  message = "harmonic: error: " + message + '\n';
  // Nothing is left to be done when even this fails.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, message.data(), message.size());
  return status;
}

int guarded(std::vector<std::string> arguments) {
  try {
    const int status = harmonic::run_program(std::move(arguments));
    harmonic::flush_output();
    return status;
  } catch (const harmonic::Diverged& error) {
    return report(error.what(), harmonic::kDivergedStatus);
  } catch (const harmonic::Error& error) {
    return report(error.what(), error.kind() == harmonic::Error::Kind::usage ? 2 : 1);
  } catch (const harmonic::Interrupted&) {
    return report("interrupted", 130);
  } catch (const harmonic::OutputClosed&) {
    return 141;  // what a shell reports of a program that a broken pipe ended
  } catch (const std::bad_alloc&) {
    return report(
        "out of memory; a smaller model, fewer or shorter texts at a time or, where the command has such a "
        "setting, a smaller memory_mb or attention.context may fit",
        1);
  } catch (const std::exception& error) {
    return report(std::string("internal error, please report it: ") + error.what(), 1);
  }
}

}  // namespace

int main(int count, char** arguments) {
  harmonic::end_with_parent();
  harmonic::prepare_output();
  const int status = guarded({arguments + std::min(count, 1), arguments + count});
  // What an earlier failure left in the buffer of standard output must not be written again at exit and hang
  // or fail.
  if (status == 141) ::_exit(status);
  return status;
}
