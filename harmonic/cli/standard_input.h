// Standard input, whole or as it comes.
#pragma once

#include <string>

namespace harmonic {

// Appends what is there, at most `limit` bytes, waiting for at least one; false at the end. Throws Error when
// it cannot be read, Interrupted when the program is asked to stop.
bool read_some_input(std::string& to, size_t limit = 1 << 16);

std::string read_standard_input();

}  // namespace harmonic
