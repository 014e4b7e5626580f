// Where the scoring of a stream stands, in a file: it goes on from there when the program starts again.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "harmonic/runtime/line_scores.h"
#include "harmonic/runtime/text_point.h"

namespace harmonic {

struct ScoreState {
  TextPoint point;      // after every token that was scored
  std::string waiting;  // bytes that are no token yet (StreamEncoder)
  bool begun = false;   // the document at hand has tokens
  LineScore line;       // the one at hand
  OutlierScore outliers;
};

// Replaces the file at once, by one that its owner alone may read, or leaves the old one. No other thread may
// make a file meanwhile. `identity` is the model's (identity_of()). Throws Error.
void save_score_state(const std::filesystem::path& path, const ScoreState& state,
                      const std::string& identity);
// None where there is no file. Throws Error for a damaged one, and for one of another model.
std::optional<ScoreState> load_score_state(const std::filesystem::path& path, const Model& model,
                                           const std::string& identity);

}  // namespace harmonic
