// Text within HTML and SVG.
#pragma once

#include <string>
#include <string_view>

namespace harmonic {

// Any bytes as the content of an element or of a quoted attribute: & < > " ' become entities; bytes that are
// no UTF-8, and control characters other than the line break and the tab, become U+FFFD.
std::string escaped(std::string_view text);

// Something to call an element by: lower-case letters, digits and "-" only, never empty.
std::string identifier(std::string_view text);

}  // namespace harmonic
