// JSON from outside, with limits. Include it only where JSON is read or written: it is slow to compile.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {

using Json = nlohmann::ordered_json;

// Parses `text`; `source` names it in errors. Nesting deeper than `max_depth` is an error (nlohmann would
// recurse).
inline Json parse_json(std::string_view text, std::string_view source, int max_depth = 64) {
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > max_depth) fail("{}: JSON nested deeper than {} levels", source, max_depth);
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}", source, error.what());
  }
}

// Parses the file at `path`, of at most `limit` bytes.
inline Json read_json(const std::filesystem::path& path, int64_t limit = int64_t{1} << 26) {
  return parse_json(read_file(path, limit), path.string());
}

}  // namespace harmonic
