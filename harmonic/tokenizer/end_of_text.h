// Which special token of a vocabulary ends a text, where only names can tell.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace harmonic {

inline constexpr std::string_view kGpt2EndOfText = "<|endoftext|>";

// <|endoftext|>, else </s>, else the only one. Throws Error, naming `source`, when that does not decide.
int32_t choose_end_of_text(const std::map<int32_t, std::string>& specials, std::string_view source);

}  // namespace harmonic
