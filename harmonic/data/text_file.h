// The bytes of a text file, decompressed: plain, gz, xz, zst, and archives (zip; tar by its name), whose
// members are read as files one after the other. What a file is, its first bytes tell, not its name.
//
// Damage is told by checksums: gz by its one (of several parts joined into one file, only that each part ends
// as one), xz by its own, zst where it was written with one, zip by those of its members. A compressed tar is
// read up to the mark that ends it: nothing after it is looked at, nor, since it comes later, the checksum of
// tar.gz, so that changed bytes may pass that leave a readable tar.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <string>

namespace harmonic {

// Streams in constant memory. Not thread-safe. Every error names the file (and the member), and what to do.
class TextFile {
 public:
  // "-" is standard input, which is read but not closed. Throws Error when it cannot be opened, is a
  // directory, or is named as a compressed file and does not begin like one.
  explicit TextFile(const std::string& path);
  ~TextFile();
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  // Moves to the first or the next member; false when there is none. A file that is no archive is its one
  // member. Folders, links, and members whose name begins with a dot are passed over.
  bool next_member();
  // For messages and for telling the format: "notes.txt", or "books.zip: chapter1.txt".
  const std::string& name() const;
  // Up to `size` bytes (fewer only at the end); 0 at the end of the member. Throws Error on damage or
  // truncation, and Interrupted, even while it waits for input, when the program is asked to stop: every
  // reader of text does so through here.
  size_t read(char* buffer, size_t size);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The whole content of a file, all members of an archive one after the other. Throws as TextFile does, and
// Error when it is more than `limit` bytes, unpacked.
std::string read_text(const std::string& path, int64_t limit = std::numeric_limits<int64_t>::max());

}  // namespace harmonic
