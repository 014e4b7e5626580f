// Which targets an evaluation by context was of. Bits of two evaluations may be set beside each other only
// where these are the same.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "harmonic/base/json.h"

namespace harmonic {

// As the JSON of harmonic eval --contexts holds it, under "targets".
struct ContextTargets {
  std::string text_sha256;  // TokenCorpus::hash(): of the tokens
  int64_t longest = 0;      // tokens of the longest context, for which each group has room
  int64_t group = 0;        // adjacent targets
  int64_t groups = 0;       // evenly over the text

  Json json() const;
  // What of it is not what `other` has, for an error: "text"; empty where they are the same.
  std::string difference_from(const ContextTargets& other) const;
};

// Throws Error naming the file, and what was expected.
ContextTargets read_context_targets(const std::filesystem::path& path);

}  // namespace harmonic
