#include "harmonic/runtime/stop_strings.h"

#include <algorithm>

namespace harmonic {

bool StopStrings::push(std::string_view bytes, std::string& released) {
  held_ += bytes;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    released.append(held_, 0, first);
    held_.erase(0, first);
    return true;
  }
  size_t keep = 0;  // bytes at the end that begin a stop string
  for (const std::string& stop : stops_) {
    for (size_t length = std::min(held_.size(), stop.size() - 1); length > keep; --length) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, length))) {
        keep = length;
        break;
      }
    }
  }
  released.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void StopStrings::flush(std::string& released) {
  released += held_;
  held_.clear();
}

}  // namespace harmonic
