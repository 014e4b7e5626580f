#include "harmonic/runtime/text_stream.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "harmonic/model/safetensors.h"

namespace harmonic {

void TextStream::restart() {
  state_ = State(inference_.model().state_layout());
  pending_ = eot_;
}

// Feeds pending_ and all of `tokens` but the last, in pieces; use(hidden, targets, count) sees each piece.
template <typename Use>
void TextStream::advance(const std::vector<int32_t>& tokens, Use use) {
  const StateRows row{static_cast<char*>(state_.data()), 1, &inference_.model().state_layout()};
  std::vector<int32_t> inputs;
  const auto total = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < total; begin += Inference::kRowsPerCall) {
    const int64_t count = std::min(total - begin, Inference::kRowsPerCall);
    const int32_t* targets = tokens.data() + begin;
    inputs.assign(1, pending_);
    inputs.insert(inputs.end(), targets, targets + count - 1);
    const int64_t offsets[2] = {0, count};
    const Tensor hidden = inference_.hidden(inputs.data(), {offsets, 1}, row, row);
    use(hidden, targets);
    pending_ = targets[count - 1];
  }
}

void TextStream::score(const std::vector<int32_t>& tokens, std::vector<double>& bits) {
  advance(tokens, [&](const Tensor& hidden, const int32_t* targets) {
    const Tensor losses = inference_.losses(hidden, targets);
    for (int64_t r = 0; r < losses.cols; ++r) bits.push_back(number_at(losses, 0, r) / std::log(2.0));
  });
}

void TextStream::append(const std::vector<int32_t>& tokens) {
  advance(tokens, [](const Tensor&, const int32_t*) {});
}

Tensor TextStream::next_logits() {
  State ahead = state_;
  return inference_.advance(ahead, &pending_, 1);
}

void TextStream::save(const std::filesystem::path& path) const {
  const std::string_view bytes = state_.view();
  SafetensorsWriter file(path, {{"state", StoredType::u8, {static_cast<int64_t>(bytes.size())}}},
                         {{"harmonic_state", "1"},
                          {"model", inference_.model().parameters().hash()},
                          {"pending_token", fmt::format("{}", pending_)},
                          {"position", fmt::format("{}", state_.position())}});
  file.append(bytes.data(), static_cast<int64_t>(bytes.size()));
  file.commit();
}

void TextStream::load(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const auto metadata = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
      fail("{}: not a saved state: its metadata has no \"{}\"", path.string(), key);
    return found->second;
  };
  if (metadata("harmonic_state") != "1")
    fail("{}: a saved state of format {}; this build reads 1", path.string(), metadata("harmonic_state"));
  if (metadata("model") != inference_.model().parameters().hash())
    fail("{}: the state of another model; states are of use only to the exact weights that made them",
         path.string());
  const StoredTensor& stored = file.at("state");
  if (stored.type != StoredType::u8 || static_cast<int64_t>(stored.bytes.size()) != state_.bytes())
    fail("{}: a state of {} bytes; this model's has {}", path.string(), stored.bytes.size(), state_.bytes());
  const std::string token = metadata("pending_token");
  int32_t pending = -1;
  std::from_chars(token.data(), token.data() + token.size(), pending);
  if (pending < 0 || pending >= inference_.model().config().vocab_size)
    fail("{}: pending_token is \"{}\"; expected a token of this model", path.string(), token);
  State state(inference_.model().state_layout());
  std::memcpy(state.data(), stored.bytes.data(), stored.bytes.size());
  const StateRows row{static_cast<char*>(state.data()), 1, &inference_.model().state_layout()};
  for (const StateLayout::Named& named : inference_.model().state_layout().fields()) {
    const Tensor numbers = row.field(named.field);
    for (int64_t i = 0; i < numbers.cols; ++i)
      if (!std::isfinite(number_at(numbers, 0, i)))
        fail("{}: the state holds numbers that are not finite", path.string());
  }
  state_ = state;
  pending_ = pending;
}

}  // namespace harmonic
