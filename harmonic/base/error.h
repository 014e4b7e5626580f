// base: what everything else stands on. Errors, checked arithmetic, files, threads, random numbers, logging.
// It knows nothing of tensors or models.
//
// Errors: one exception type whose message a user can act on: what was expected, what was found, where, what
// to do.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace harmonic {

class Error : public std::runtime_error {
 public:
  enum class Kind {
    failed,  // exit status 1
    usage,   // exit status 2: the command line or a configuration is wrong
  };
  explicit Error(std::string message, Kind kind = Kind::failed)
      : std::runtime_error(std::move(message)), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

// Throws Error with a formatted message; `fail_usage` marks it as a mistake in how the program was called.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...), Error::Kind::usage);
}

}  // namespace harmonic

// For our own mistakes only, never for input: states what must hold, in every build.
#define HARMONIC_ASSERT(condition)                                                       \
  do {                                                                                   \
    if (!(condition))                                                                    \
      throw ::std::logic_error(                                                          \
          ::fmt::format("{}:{}: assertion failed: {}", __FILE__, __LINE__, #condition)); \
  } while (0)
