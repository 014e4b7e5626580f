#include "harmonic/runtime/text_point.h"

#include <cmath>
#include <cstring>

#include "harmonic/base/files.h"
#include "harmonic/base/put_number.h"
#include "harmonic/base/utf8.h"
#include "harmonic/model/inference.h"

namespace harmonic {
namespace {

constexpr std::string_view kMagic = "HTP1";

template <typename T>
T take(std::string_view& bytes, const std::string& source) {
  T value;
  if (bytes.size() < sizeof value) fail("{}: a state that ends after too few bytes", source);
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

}  // namespace

TextPoint beginning_of_text(const Model& model) {
  return {State(model.state_layout()), static_cast<int32_t>(model.config().bos()), 0, {}};
}

void begin_document(const Model& model, TextPoint& point) {
  point.earlier = point.length();
  point.state = State(model.state_layout());
  point.pending = static_cast<int32_t>(model.config().bos());
  point.unfinished.clear();
}

std::string identity_of(const Model& model) {
  return sha256(model.config().to_json() + model.parameters().hash());
}

void check_state(const Model& model, const State& state, const std::string& source) {
  const StateLayout& layout = model.state_layout();
  if (state.bytes() != layout.bytes())
    fail("{}: a state of {} bytes; this model's has {}", source, state.bytes(), layout.bytes());
  const int64_t longest = model.config().longest_text();
  const uint64_t farthest = longest > 0 ? static_cast<uint64_t>(longest) : kFarthestPosition - 1;
  if (state.position() > farthest)
    fail("{}: the state's position is {}; at most {} was expected", source, state.position(), farthest);
  const StateRows row(const_cast<void*>(state.data()), 1, layout);
  for (const StateLayout::Named& named : layout.fields()) {
    const Tensor numbers = row.field(named.field);
    for (int64_t i = 0; i < numbers.cols; ++i)
      if (!std::isfinite(number_at(numbers, 0, i)))
        fail("{}: the state's {} holds a number that is not finite", source, named.name);
  }
}

void check_unfinished(std::string_view bytes, const std::string& source) {
  if (bytes.empty()) return;
  const Utf8Step step = read_utf8(bytes);
  if (step.kind != Utf8Step::Kind::incomplete || step.length != static_cast<int>(bytes.size()))
    fail("{}: expected the first bytes of a UTF-8 character, and found {} others", source, bytes.size());
}

std::string encode_point(const TextPoint& point) {
  std::string bytes(kMagic);
  put_number(bytes, point.pending);
  put_number(bytes, point.earlier);
  put_number(bytes, static_cast<uint8_t>(point.unfinished.size()));
  bytes += point.unfinished;
  bytes += point.state.view();
  return bytes;
}

TextPoint decode_point(const Model& model, std::string_view bytes, const std::string& source) {
  if (!bytes.starts_with(kMagic)) fail("{}: not a state that this version writes", source);
  bytes.remove_prefix(kMagic.size());
  TextPoint point;
  point.pending = take<int32_t>(bytes, source);
  point.earlier = take<uint64_t>(bytes, source);
  const size_t unfinished = take<uint8_t>(bytes, source);
  point.unfinished = bytes.substr(0, unfinished);
  bytes.remove_prefix(point.unfinished.size());
  point.state = State(model.state_layout());
  if (static_cast<int64_t>(bytes.size()) != point.state.bytes())
    fail("{}: a state of {} bytes; this model's has {}", source, bytes.size(), point.state.bytes());
  std::memcpy(point.state.data(), bytes.data(), bytes.size());
  if (point.pending < 0 || point.pending >= model.config().vocab_size)
    fail("{}: its last token is {}; the model has {} tokens", source, point.pending,
         model.config().vocab_size);
  if (point.earlier >= kFarthestPosition)
    fail("{}: {} tokens in earlier documents; at most {} were expected", source, point.earlier,
         kFarthestPosition);
  check_unfinished(point.unfinished, source);
  check_state(model, point.state, source);
  return point;
}

}  // namespace harmonic
