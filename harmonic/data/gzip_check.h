// What a gzip file says of its content (RFC 1952), which libarchive passes over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace harmonic {

// Takes a file as it streams by, seekable or not. Not thread-safe.
class GzipCheck {
 public:
  // The next bytes of the file, and of what is unpacked from it.
  void add_packed(std::string_view bytes);
  void add_content(std::string_view bytes);

  // At the end of both: whether the file ends in the checksum and the size of its content. A file in several
  // parts ends in those of its last part alone: it is taken for one when a second header was seen and the
  // size is not that of the whole, and passes.
  bool passed() const;

 private:
  uint32_t crc_ = ~uint32_t{0};
  uint64_t content_size_ = 0;
  int64_t headers_ = 0;      // one for each part, and those that stand there by chance
  std::string last_packed_;  // the last bytes so far, as many as the trailer has
};

}  // namespace harmonic
