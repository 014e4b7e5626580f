// Files from the web: whole, checked, and gone on with after an interruption.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace harmonic {

struct Download {
  std::vector<std::string> addresses;  // of the same bytes; the next is tried where one fails
  std::filesystem::path target;
  int64_t bytes = 0;
  std::string sha256;
  std::string by_hand;  // where a person gets the file, for errors
};

// Brings the file by the program `curl`, which knows about TLS, proxies and redirects. It grows beside its
// place as NAME.part, which stays when the transfer fails or the program is asked to stop (Interrupted), and
// is gone on with the next time; under its name it appears with the right size and checksum only. False where
// it stands there already, as it must be; that it is another file is an error, and it is left alone. Throws
// Error with what to do. Nobody else may write these two files meanwhile.
bool download(const Download& wanted);

// Throws Error with expected and found where `file` has another size or checksum; `cure` ends the message.
void check_file(const std::filesystem::path& file, int64_t bytes, const std::string& sha256,
                const std::string& cure);

}  // namespace harmonic
