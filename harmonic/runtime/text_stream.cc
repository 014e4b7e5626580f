#include "harmonic/runtime/text_stream.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "harmonic/model/safetensors.h"
#include "harmonic/runtime/text_point.h"

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

void TextStream::restart() {
  earlier_ = length();
  state_ = State(inference_.model().state_layout());
  before_.clear();
  pending_ = bos_;
}

bool TextStream::full() const {
  const int64_t longest = inference_.model().config().longest_text();
  return longest > 0 && position() >= static_cast<uint64_t>(longest);
}

void TextStream::go_back(State& state) const {
  if (looked_ahead()) std::memcpy(state.data(), before_.data(), before_.size());
}

// pending_ and then the tokens.
std::vector<int32_t> TextStream::after_pending(const std::vector<int32_t>& tokens) const {
  std::vector<int32_t> text = {pending_};
  text.insert(text.end(), tokens.begin(), tokens.end());
  return text;
}

void TextStream::score(const std::vector<int32_t>& tokens, std::vector<double>& bits) {
  const std::vector<int32_t> text = after_pending(tokens);
  go_back(state_);
  before_.clear();
  inference_.score(state_, text.data(), static_cast<int64_t>(tokens.size()), bits);
  pending_ = text.back();
}

void TextStream::append(const std::vector<int32_t>& tokens) {
  if (tokens.empty()) return;
  const std::vector<int32_t> text = after_pending(tokens);
  const int64_t fed = looked_ahead() ? 1 : 0;
  before_.clear();
  if (const auto count = static_cast<int64_t>(tokens.size()); count > fed)
    inference_.advance(state_, text.data() + fed, count - fed);
  pending_ = text.back();
}

Tensor TextStream::next_logits() {
  go_back(state_);
  before_.clear();
  const auto size = static_cast<size_t>(inference_.model().state_layout().bytes_before_caches());
  std::string before(state_.view().substr(0, size));
  const Tensor logits = inference_.advance(state_, &pending_, 1);
  before_ = std::move(before);
  return logits;
}

void TextStream::save(const std::filesystem::path& path, std::string_view unfinished) const {
  State state = state_;
  go_back(state);
  const std::string_view bytes = state.view();
  Metadata metadata = {{"harmonic_state", kFormats.back()},
                       {"model", identity_of(inference_.model())},
                       {"pending_token", fmt::format("{}", pending_)},
                       {"earlier_tokens", fmt::format("{}", earlier_)},
                       {"unfinished_character", hexadecimal(unfinished)}};
  metadata["sha256"] = checksum(bytes, metadata);
  SafetensorsWriter file(path, {{"state", StoredType::u8, {static_cast<int64_t>(bytes.size())}}}, metadata);
  file.append(bytes.data(), static_cast<int64_t>(bytes.size()));
  file.commit();
}

std::string TextStream::load(const std::filesystem::path& path) {
  const std::string name = path.string();
  const SafetensorsFile file(path);
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
  if (metadata.at("model") != identity_of(inference_.model()))
    fail("{}: the state of another model; states are of use only to the exact model that made them", name);
  if (stored.type != StoredType::u8 || static_cast<int64_t>(bytes.size()) != state_.bytes())
    fail("{}: a state of {} bytes; this model's has {}", name, bytes.size(), state_.bytes());

  // The file may have been made by anybody: what follows holds for honest ones anyway.
  const auto pending = number_of<int32_t>(metadata.at("pending_token"),
                                          static_cast<int32_t>(inference_.model().config().vocab_size),
                                          name + ": pending_token");
  const auto earlier =
      number_of<uint64_t>(metadata.at("earlier_tokens"), kFarthestPosition, name + ": earlier_tokens");
  std::string unfinished = format == "1" ? "" : unfinished_of(metadata.at("unfinished_character"), name);
  const StateLayout& layout = inference_.model().state_layout();
  State state(layout);
  std::memcpy(state.data(), bytes.data(), bytes.size());
  check_state(inference_.model(), state, name);
  state_ = state;
  pending_ = pending;
  earlier_ = earlier;
  before_.clear();
  return unfinished;
}

}  // namespace harmonic
