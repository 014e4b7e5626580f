// A model whose numbers are no numbers any more: nothing is wrong with the program or how it was called, and
// whoever runs many models wants to tell this from a failure.
#pragma once

#include "harmonic/base/error.h"

namespace harmonic {

inline constexpr int kDivergedStatus = 3;  // the program's exit status for it (docs/formats.md)

class Diverged : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void fail_diverged(fmt::format_string<Args...> format, Args&&... args) {
  throw Diverged(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace harmonic
