// Numbers as a reader wants them: 4K tokens, 338 MB, 1,234,567, −0.112.
#pragma once

#include <cstdint>
#include <string>

namespace harmonic {

std::string without_zeros(const std::string& text);  // "8.50 GB" as "8.5 GB", "20.0M" as "20M"
std::string grouped_text(int64_t number);            // "1,234,567"
std::string length_text(int64_t tokens);   // in powers of two where that is whole: "4K", "1M"; else grouped
std::string count_text(double count);      // three digits at most: "65.5M", "12.3K", "870"
std::string bytes_text(double bytes);      // decimal units: "338 MB", "12.3 KB"
std::string seconds_text(double seconds);  // "47 s", "12.5 min", "3.2 h"
std::string fixed_text(double number, int digits);   // "1.8460"; a minus sign for negative numbers, never -0
std::string signed_text(double number, int digits);  // "+0.112", "−0.112", "0.000"
std::string percent_text(double share);              // of 1: "97.3 %"

}  // namespace harmonic
