#include "harmonic/train/event_file.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <string>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

// CRC-32C (Castagnoli), reflected.
constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}();

// As TFRecords have it, so that a checksum of data that holds checksums is no easier to get right by
// accident.
uint32_t masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF] ^ crc >> 8;
  crc = ~crc;
  return std::rotr(crc, 15) + 0xA282EAD8u;
}

template <typename T>
std::string bytes_of(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}

// Protocol buffers: a number in groups of seven bits; a field's number and kind; a field with a length.
enum class Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

std::string varint(uint64_t number) {
  std::string text;
  for (; number >= 0x80; number >>= 7) text += static_cast<char>(number | 0x80);
  return text + static_cast<char>(number);
}
std::string key(int field, Wire wire) {
  return varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire));
}
std::string field(int number, std::string_view bytes) {
  return key(number, Wire::bytes) + varint(bytes.size()) + std::string(bytes);
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Event: 1 wall_time, 2 step, then one of 3 file_version, 5 summary, 7 session_log.
std::string event(int64_t step, const std::string& what) {
  return key(1, Wire::fixed64) + bytes_of(now()) + key(2, Wire::varint) +
         varint(static_cast<uint64_t>(step)) + what;
}

std::filesystem::path new_file(const std::filesystem::path& folder) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  return folder /
         fmt::format("events.out.tfevents.{:010}.{}.{}", static_cast<int64_t>(now()), host, ::getpid());
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& folder, int64_t last_step) : file_(new_file(folder)) {
  append(event(0, field(3, "brain.Event:2")));
  // SessionLog with status START: what other files say of this step and later ones is dropped.
  const std::string start = key(1, Wire::varint) + varint(1);
  if (last_step > 0) append(event(last_step + 1, field(7, start)));
}

void EventFile::scalar(std::string_view tag, int64_t step, double value) {
  // Summary: 1 value, of 1 tag, 2 simple_value.
  const std::string entry = field(1, tag) + key(2, Wire::fixed32) + bytes_of(static_cast<float>(value));
  append(event(step, field(5, field(1, entry))));
}

void EventFile::append(std::string_view event) {
  const std::string length = bytes_of(static_cast<uint64_t>(event.size()));
  file_.append(length + bytes_of(masked_crc(length)) + std::string(event) + bytes_of(masked_crc(event)));
}

}  // namespace harmonic
