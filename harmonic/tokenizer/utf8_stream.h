// Whole characters out of a stream of token bytes, which may end in the middle of one. Bytes that are no
// UTF-8 become U+FFFD, so that the output is always valid.
#pragma once

#include <string>
#include <string_view>

#include "harmonic/base/utf8.h"

namespace harmonic {

// One stream of text; not thread-safe, copyable (a fork of the text continues by itself).
class Utf8Stream {
 public:
  // Takes the next bytes and returns what is complete.
  std::string push(std::string_view bytes) {
    held_ += bytes;
    std::string out;
    size_t at = 0;
    while (at < held_.size()) {
      const Utf8Step step = read_utf8(std::string_view(held_).substr(at));
      if (step.kind == Utf8Step::Kind::incomplete) break;
      release(out, at, step);
      at += static_cast<size_t>(step.length);
    }
    held_.erase(0, at);
    return out;
  }

  // The text has ended: returns what was held back, which is no whole character.
  std::string flush() {
    std::string out;
    if (!held_.empty()) release(out, 0, {Utf8Step::Kind::invalid, static_cast<int>(held_.size()), 0});
    held_.clear();
    return out;
  }

  // The beginning of a character whose rest has not come, at most 3 bytes: pushed into another stream, it
  // goes on there as it would here.
  const std::string& held() const { return held_; }

 private:
  void release(std::string& out, size_t at, Utf8Step step) const {
    if (step.kind == Utf8Step::Kind::invalid)
      append_utf8(out, 0xFFFD);
    else
      out.append(held_, at, static_cast<size_t>(step.length));
  }

  std::string held_;
};

}  // namespace harmonic
