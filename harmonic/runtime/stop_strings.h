// Texts at which a generated text ends, found in bytes that come token by token.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace harmonic {

// A value; not thread-safe.
class StopStrings {
 public:
  StopStrings() = default;
  // None of them empty.
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Takes the next bytes. Appends to `released` those that no stop string can begin with any more; when a
  // stop string is complete, those before the first one, and returns true: the text has ended. rest() are the
  // others then, from the stop string on.
  bool push(std::string_view bytes, std::string& released);
  // The text ends without one: appends what was held back.
  void flush(std::string& released);
  const std::string& rest() const { return held_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // may begin a stop string
};

}  // namespace harmonic
