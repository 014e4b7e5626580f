// JSON out, piece by piece: what streams send for each token is not built as a tree first.
#pragma once

#include <string>
#include <string_view>

namespace harmonic {

// The text in quotes. Bytes that are no UTF-8 become U+FFFD.
std::string json_text(std::string_view text);
void append_json_text(std::string& out, std::string_view text);
// The shortest text that reads back as the same number; null where it is not finite.
std::string json_number(double number);

}  // namespace harmonic
