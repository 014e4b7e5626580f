// Numbers in files of our own formats: as they lie in memory, little-endian.
#pragma once

#include <string>

namespace harmonic {

template <typename Number>
void put_number(std::string& bytes, Number number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
}

}  // namespace harmonic
