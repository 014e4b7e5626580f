// A text's state in a file of its own: what harmonic generate --state-out writes and a server exports. See
// docs/formats.md.
#pragma once

#include <filesystem>
#include <string>

#include "harmonic/runtime/text_point.h"

namespace harmonic {

// `identity` is that of the model (identity_of()). Throws Error.
void save_state_file(const std::filesystem::path& path, const TextPoint& point, const std::string& identity);
// Throws Error for a damaged file or the state of another model.
TextPoint load_state_file(const std::filesystem::path& path, const Model& model, const std::string& identity);

}  // namespace harmonic
