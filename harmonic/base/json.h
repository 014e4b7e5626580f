// JSON from outside, with limits. Include it only where JSON is read or written: it is slow to compile.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {

using Json = nlohmann::ordered_json;

// Names that an object may have where nothing else is said. They are compared each with each.
constexpr int64_t kMostJsonNames = 10'000;

// Parses `text`; `source` names it in errors. Nesting deeper than `max_depth` is an error (nlohmann would
// recurse), and so are more than `max_names` in an object, and a name that stands there twice.
template <typename AnyJson = Json>
AnyJson parse_json(std::string_view text, std::string_view source, int max_depth = 64,
                   int64_t max_names = kMostJsonNames) {
  constexpr size_t kShown = 300;  // of an error, which may quote the text
  std::vector<int64_t> names;     // of each object that is open
  const auto watch = [&](int depth, typename AnyJson::parse_event_t event, AnyJson& parsed) {
    using Event = typename AnyJson::parse_event_t;
    if (depth > max_depth) fail("{}: JSON nested deeper than {} levels", source, max_depth);
    if (event == Event::object_start) names.push_back(0);
    if (event == Event::key && ++names.back() > max_names)
      fail("{}: a JSON object of more than {} names", source, max_names);
    if (event == Event::object_end) {
      if (static_cast<int64_t>(parsed.size()) != names.back())
        fail("{}: a JSON object of {} names, of which {} are distinct; leave each there once", source,
             names.back(), parsed.size());
      names.pop_back();
    }
    return true;
  };
  // What follows one would not be looked at.
  if (text.find('\0') != text.npos) fail("{}: not valid JSON: it holds a zero byte", source);
  try {
    return AnyJson::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}", source, std::string_view(error.what()).substr(0, kShown));
  }
}

// Parses the file at `path`, of at most `limit` bytes.
inline Json read_json(const std::filesystem::path& path, int64_t limit = int64_t{1} << 26) {
  return parse_json(read_file(path, limit), path.string());
}

}  // namespace harmonic
