#include "harmonic/model/inference.h"

#include <algorithm>
#include <numeric>

namespace harmonic {
namespace {

Tensor row_of(const int32_t* values, int64_t count) {
  return {const_cast<int32_t*>(values), 1, count, count, DType::i32, Device::cpu};
}

}  // namespace

// Rows that the backend reaches, with the same contents: these themselves where it reaches them.
StateRows Inference::within_reach(const StateRows& rows) {
  if (rows.source == model_.backend().memory) return rows;
  StateRows reached = rows.caches
                          ? make_state_rows(memory_, model_.state_layout(), rows.count)
                          : make_state_rows_without_caches(memory_, model_.state_layout(), rows.count);
  copy_state_rows(rows, reached);
  return reached;
}

Tensor Inference::hidden(const int32_t* tokens, const Segments& segments, const StateRows& in,
                         const StateRows& out) {
  memory_.clear();
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const bool in_place = in.data == out.data, in_reach = out.source == model_.backend().memory;
  const StateRows before = within_reach(in);
  StateRows after = out;
  if (in_place || !in_reach) {
    // Numbers are copied; caches, which may be large, are added to where they lie.
    after = make_state_rows_without_caches(memory_, model_.state_layout(), segments.count);
    after.caches = before.caches;
    after.cache_stride = before.cache_stride;
  }
  Step step(tape, segments, before, after);
  const Variable result = model_.forward(step, row_of(tokens, segments.rows()));
  tape.synchronize();
  if (!in_reach) {
    copy_state_rows(after, out);
  } else if (in_place) {
    for (int64_t b = 0; b < segments.count; ++b)
      std::memcpy(out.row(b), after.row(b), static_cast<size_t>(after.layout->bytes_before_caches()));
  }
  after_hidden_ = memory_.mark();
  return result.value;
}

Tensor Inference::logits(const Tensor& hidden) {
  memory_.rewind(after_hidden_);
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const Tensor logits = model_.logits(tape, hidden);
  tape.synchronize();
  return logits;
}

Tensor Inference::losses(const Tensor& hidden, const int32_t* targets) {
  memory_.rewind(after_hidden_);
  Tape tape(model_.backend(), context_, memory_, nullptr);
  const Tensor losses = memory_.tensor(1, hidden.rows, model_.backend().dtype, MemoryUse::shared);
  linear_cross_entropy(tape, {hidden}, model_.head(), row_of(targets, hidden.rows), losses, 1);
  tape.synchronize();
  return losses;
}

void Inference::make_places(int64_t count) {
  if (count <= place_count_) return;
  forget_steps();
  place_count_ = count;
  places_.clear();
  tokens_ = places_.tensor(1, count, DType::i32, MemoryUse::shared);
  chosen_ = places_.tensor(1, count, DType::i32, MemoryUse::shared);
  const auto bytes = count * static_cast<int64_t>(sizeof(TokenChoice));
  choices_ = static_cast<TokenChoice*>(places_.allocate(bytes, MemoryUse::shared));
  offsets_.resize(static_cast<size_t>(count) + 1);
  std::iota(offsets_.begin(), offsets_.end(), 0);
}

void Inference::forget_steps() {
  for (const auto& [key, step] : steps_)
    if (step.recording >= 0) model_.backend().recorder->forget(step.recording);
  steps_.clear();
}

// `on_device`: the choices too.
void Inference::compute_step(const StateRows& in, const StateRows& out, bool on_device) {
  memory_.clear();
  Tape tape(model_.backend(), context_, memory_, nullptr);
  Step step(tape, {offsets_.data(), in.count}, in, out);
  // A slow level in which no text's block closes has nothing to do but to pass its states on.
  const auto rests = [&](int64_t stride) { return step.level(stride).blocks.rows() == 0; };
  const std::vector<int64_t> strides = model_.strides();
  if (model_.backend().device != Device::cpu && std::any_of(strides.begin(), strides.end(), rests))
    step.copy_states();
  const Tensor hidden = model_.forward(step, tokens_.columns(0, in.count)).value;
  logits_ = model_.logits(tape, hidden, on_device ? MemoryUse::tensors : MemoryUse::shared);
  repeats_ = repeats_ && !step.has_read_positions();
  if (on_device) tape.run(ChooseTokens{logits_, choices_, chosen_.columns(0, in.count)});
  after_hidden_ = memory_.mark();
}

// What a step does depends, beside what lies at its places, on where each text stands among the strides, and
// on whether a block of each has closed.
void Inference::record_or_replay(const StateRows& in, const StateRows& out) {
  constexpr size_t kMostSteps = 512;
  WorkRecorder& recorder = *model_.backend().recorder;
  const int64_t period = model_.period();
  std::string key;
  const auto add = [&](const auto& value) {
    key.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  for (const void* at : {in.data, out.data, in.caches}) add(at);
  for (int64_t b = 0; b < in.count; ++b) {
    const auto position = static_cast<int64_t>(in.position(b));
    add(static_cast<int32_t>(position < period ? position : period + position % period));
  }
  if (steps_.size() >= kMostSteps && !steps_.contains(key)) forget_steps();
  RecordedStep& step = steps_[key];
  if (!step.done) {
    step.done = true;
    return compute_step(in, out, true);
  }
  if (step.recording < 0) {
    recorder.begin();
    try {
      compute_step(in, out, true);
    } catch (...) {
      recorder.abandon();
      throw;
    }
    step.recording = recorder.end();
  }
  for (int64_t b = 0; b < in.count; ++b) out.position(b) = in.position(b) + 1;
  recorder.replay(step.recording);
}

const int32_t* Inference::next_tokens(const int32_t* tokens, const StateRows& in, const StateRows& out,
                                      const TokenChoice* choices) {
  const Backend& backend = model_.backend();
  const int64_t count = in.count;
  HARMONIC_ASSERT(in.source == backend.memory && out.source == in.source && in.data != out.data);
  make_places(count);
  auto* chosen = chosen_.as<int32_t>();
  std::copy_n(tokens, count, tokens_.as<int32_t>());
  std::copy_n(choices, count, choices_);
  const bool on_device = backend.device == Device::cpu || std::none_of(choices, choices + count, is_ranked);
  if (on_device && repeats_ && backend.recorder && !backend.observer) {
    record_or_replay(in, out);
  } else {
    compute_step(in, out, on_device);
  }
  backend.synchronize();
  for (int64_t b = 0; !on_device && b < count; ++b)
    chosen[b] = chooser_.choose(logits_.rows_of(b, 1), choices[b]);
  return chosen;
}

// Calls use(begin, hidden) for tokens [begin, begin + hidden.rows) of the text, piece by piece.
template <typename Use>
void Inference::feed(State& state, const int32_t* tokens, int64_t count, const Use& use) {
  const StateLayout& layout = model_.state_layout();
  // Where there are no caches, which stay where they are, the state after is written into another block, and
  // the two change places: nothing is copied.
  const bool changes_place = !layout.has_caches();
  if (changes_place && spare_.bytes() == 0) spare_ = State(layout);
  for (int64_t begin = 0; begin < count; begin += kRowsPerCall) {
    const int64_t offsets[2] = {0, std::min(count - begin, kRowsPerCall)};
    const Tensor rows = hidden(tokens + begin, {offsets, 1}, StateRows(state, layout),
                               StateRows(changes_place ? spare_ : state, layout));
    if (changes_place) std::swap(state, spare_);
    use(begin, rows);
  }
}

Tensor Inference::advance(State& state, const int32_t* tokens, int64_t count) {
  HARMONIC_ASSERT(count > 0);
  Tensor last;
  feed(state, tokens, count, [&](int64_t begin, const Tensor& rows) {
    if (begin + rows.rows == count) last = logits(rows.rows_of(rows.rows - 1, 1));
  });
  return last;
}

void Inference::score(State& state, const int32_t* text, int64_t count, std::vector<double>& bits) {
  feed(state, text, count, [&](int64_t begin, const Tensor& rows) {
    const Tensor nats = losses(rows, text + begin + 1);
    for (int64_t r = 0; r < nats.cols; ++r) bits.push_back(number_at(nats, 0, r) * kBitsPerNat);
  });
}

double number_at(const Tensor& tensor, int64_t row, int64_t column) {
  return tensor.dtype == DType::f64 ? tensor.row<double>(row)[column] : tensor.row<float>(row)[column];
}

}  // namespace harmonic
