// A text's state in a file of its own: what harmonic generate --state-out writes and a server exports. See
// docs/formats.md.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "harmonic/runtime/text_point.h"

namespace harmonic {

// `identity` is that of the model (identity_of()). Throws Error.
void save_state_file(const std::filesystem::path& path, const TextPoint& point, const std::string& identity);
// The same as bytes.
std::string state_file_bytes(const TextPoint& point, const std::string& identity);
// Throws Error for a damaged file or the state of another model.
TextPoint load_state_file(const std::filesystem::path& path, const Model& model, const std::string& identity);

// Of such a file's bytes; `name` is theirs in errors.
TextPoint read_state_file(std::string_view bytes, const Model& model, const std::string& identity,
                          const std::string& name);

}  // namespace harmonic
