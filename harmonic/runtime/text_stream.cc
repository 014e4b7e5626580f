#include "harmonic/runtime/text_stream.h"

#include <utility>

#include "harmonic/runtime/state_file.h"

namespace harmonic {

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

TextPoint TextStream::point() const {
  TextPoint point{state_, pending_, earlier_, {}};
  go_back(point.state);
  return point;
}

void TextStream::go_on_from(TextPoint point) {
  state_ = std::move(point.state);
  pending_ = point.pending;
  earlier_ = point.earlier;
  before_.clear();
}

void TextStream::save(const std::filesystem::path& path, std::string_view unfinished) const {
  TextPoint now = point();
  now.unfinished = unfinished;
  save_state_file(path, now, identity_of(inference_.model()));
}

std::string TextStream::load(const std::filesystem::path& path) {
  TextPoint loaded = load_state_file(path, inference_.model(), identity_of(inference_.model()));
  std::string unfinished = std::move(loaded.unfinished);
  go_on_from(std::move(loaded));
  return unfinished;
}

}  // namespace harmonic
