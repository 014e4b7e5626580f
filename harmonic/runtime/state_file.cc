#include "harmonic/runtime/state_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <vector>

#include "harmonic/model/safetensors.h"

namespace harmonic {
namespace {

// Format 1 has no unfinished character.
const std::vector<std::string> kFormats = {"1", "2"};
std::vector<const char*> keys_of(const std::string& format) {
  std::vector<const char*> keys = {"model", "pending_token", "earlier_tokens"};
  if (format != "1") keys.push_back("unfinished_character");
  return keys;
}

// Covers everything that a saved state means.
std::string checksum(std::string_view state, const Metadata& metadata) {
  std::string text = sha256(state);
  for (const char* key : keys_of(metadata.at("harmonic_state"))) text += ' ' + metadata.at(key);
  return sha256(text);
}

std::string hexadecimal(std::string_view bytes) {
  const auto* begin = reinterpret_cast<const unsigned char*>(bytes.data());
  return fmt::format("{:02x}", fmt::join(begin, begin + bytes.size(), ""));
}

// The bytes, where they begin a character.
std::string unfinished_of(const std::string& text, const std::string& name) {
  std::string bytes;
  for (size_t at = 0; at < text.size(); at += 2) {
    int byte = 0;
    std::from_chars(text.data() + at, text.data() + std::min(at + 2, text.size()), byte, 16);
    bytes += static_cast<char>(byte);
  }
  if (hexadecimal(bytes) != text)
    fail("{}: unfinished_character is \"{}\"; expected the first bytes of a UTF-8 character, in hexadecimal",
         name, text);
  check_unfinished(bytes, name + ": unfinished_character");
  return bytes;
}

template <typename Integer>
Integer number_of(const std::string& text, Integer limit, const std::string& what) {
  Integer number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0 || number >= limit)
    fail("{} is \"{}\"; expected a number from 0 to {}", what, text, limit - 1);
  return number;
}

}  // namespace

void save_state_file(const std::filesystem::path& path, const TextPoint& point, const std::string& identity) {
  write_file(path, state_file_bytes(point, identity));
}

std::string state_file_bytes(const TextPoint& point, const std::string& identity) {
  const std::string_view bytes = point.state.view();
  Metadata metadata = {{"harmonic_state", kFormats.back()},
                       {"model", identity},
                       {"pending_token", fmt::format("{}", point.pending)},
                       {"earlier_tokens", fmt::format("{}", point.earlier)},
                       {"unfinished_character", hexadecimal(point.unfinished)}};
  metadata["sha256"] = checksum(bytes, metadata);
  const auto size = static_cast<int64_t>(bytes.size());
  std::string file = safetensors_head("a state", {{"state", StoredType::u8, {size}}}, metadata).text;
  return file.append(bytes);
}

TextPoint load_state_file(const std::filesystem::path& path, const Model& model,
                          const std::string& identity) {
  const MappedFile file(path);
  const std::span<const uint8_t> bytes = file.bytes();
  return read_state_file({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, model, identity,
                         path.string());
}

TextPoint read_state_file(std::string_view file_bytes, const Model& model, const std::string& identity,
                          const std::string& name) {
  const SafetensorsFile file(name, {reinterpret_cast<const uint8_t*>(file_bytes.data()), file_bytes.size()});
  const Metadata& metadata = file.metadata();
  const auto expect = [&](const char* key) {
    if (!metadata.contains(key)) fail("{}: not a saved state: its metadata has no \"{}\"", name, key);
  };
  expect("harmonic_state");
  const std::string& format = metadata.at("harmonic_state");
  if (std::find(kFormats.begin(), kFormats.end(), format) == kFormats.end())
    fail("{}: a saved state of format {}; this build reads {} to {}", name, format, kFormats.front(),
         kFormats.back());
  for (const char* key : keys_of(format)) expect(key);
  expect("sha256");
  const StoredTensor& stored = file.at("state");
  const std::string_view bytes(reinterpret_cast<const char*>(stored.bytes.data()), stored.bytes.size());
  if (metadata.at("sha256") != checksum(bytes, metadata))
    fail("{}: damaged: its checksum is not that of its content", name);
  if (metadata.at("model") != identity)
    fail("{}: the state of another model; states are of use only to the exact model that made them", name);
  TextPoint point;
  point.state = State(model.state_layout());
  if (stored.type != StoredType::u8 || static_cast<int64_t>(bytes.size()) != point.state.bytes())
    fail("{}: a state of {} bytes; this model's has {}", name, bytes.size(), point.state.bytes());

  // The file may have been made by anybody: what follows holds for honest ones anyway.
  point.pending =
      number_of<int32_t>(metadata.at("pending_token"), static_cast<int32_t>(model.config().vocab_size),
                         name + ": pending_token");
  point.earlier =
      number_of<uint64_t>(metadata.at("earlier_tokens"), kFarthestPosition, name + ": earlier_tokens");
  if (format != "1") point.unfinished = unfinished_of(metadata.at("unfinished_character"), name);
  std::memcpy(point.state.data(), bytes.data(), bytes.size());
  check_state(model, point.state, name);
  return point;
}

}  // namespace harmonic
