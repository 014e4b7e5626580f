#include "harmonic/data/gzip_check.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace harmonic {
namespace {

constexpr size_t kTrailer = 8;  // the checksum and the size, of which it keeps 32 bits
constexpr std::string_view kHeader = "\x1f\x8b\x08";

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> values{};
  for (uint32_t i = 0; i < 256; ++i) {
    values[i] = i;
    for (int bit = 0; bit < 8; ++bit) values[i] = values[i] >> 1 ^ (values[i] & 1 ? 0xEDB88320u : 0u);
  }
  return values;
}

int64_t headers_in(std::string_view bytes) {
  int64_t count = 0;
  for (size_t at = bytes.find(kHeader); at != bytes.npos; at = bytes.find(kHeader, at + 1)) ++count;
  return count;
}

std::string_view last_of(std::string_view bytes, size_t size) {
  return bytes.substr(bytes.size() - std::min(bytes.size(), size));
}

}  // namespace

void GzipCheck::add_packed(std::string_view bytes) {
  // Those that lie across the border of two blocks, and those within this one.
  std::string border(last_of(last_packed_, kHeader.size() - 1));
  border += bytes.substr(0, kHeader.size() - 1);
  headers_ += headers_in(border) + headers_in(bytes);
  if (bytes.size() < kTrailer) {
    last_packed_ += bytes;
    last_packed_ = std::string(last_of(last_packed_, kTrailer));
  } else {
    last_packed_ = last_of(bytes, kTrailer);
  }
}

void GzipCheck::add_content(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> table = crc_table();
  for (const char byte : bytes) crc_ = table[(crc_ ^ static_cast<unsigned char>(byte)) & 0xff] ^ crc_ >> 8;
  content_size_ += bytes.size();
}

bool GzipCheck::passed() const {
  if (last_packed_.size() < kTrailer) return false;
  std::array<uint32_t, 2> trailer;
  std::memcpy(trailer.data(), last_packed_.data(), kTrailer);
  const std::array<uint32_t, 2> expected = {~crc_, static_cast<uint32_t>(content_size_)};
  return trailer == expected || (headers_ > 1 && trailer[1] != expected[1]);
}

}  // namespace harmonic
