// A model at work without gradients: the working memory that forward passes need, kept from call to call.
#pragma once

#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "harmonic/model/model.h"
#include "harmonic/ops/token_chooser.h"

namespace harmonic {

inline constexpr double kBitsPerNat = std::numbers::log2e;

// Not thread-safe: one for each thread that computes. The model must outlive it. Results live until the next
// call. On the CPU the same bits come out however a text is split into calls, and whoever else is in the
// batch.
class Inference {
 public:
  Inference(const Model& model, ThreadPool& pool)
      : model_(model),
        scratch_(model.backend().memory),
        memory_(model.backend().memory),
        places_(model.backend().memory),
        context_{pool, scratch_} {}
  ~Inference() { forget_steps(); }

  const Model& model() const { return model_; }
  Context& context() { return context_; }

  // Hidden rows [R, d_model] for tokens [R] in segments. `in` has a row of state a segment; `out` receives
  // the states after, and may be the same rows as `in`.
  Tensor hidden(const int32_t* tokens, const Segments& segments, const StateRows& in, const StateRows& out);
  // Logits [R, V] of rows of the last hidden(), and only of those on a device.
  Tensor logits(const Tensor& hidden);
  // Losses [R] in nats of the last hidden() against targets [R], -1 where there is none (loss 0).
  Tensor losses(const Tensor& hidden, const int32_t* targets);

  // Decoding: text b of in.count goes on by tokens[b] from row b of `in`, and its state after it is put into
  // `out`, another set of rows with the same caches (RunningStates). Returns the tokens that choices[b] come
  // to (ChooseTokens; -1 where a logit is not finite), until the next call. On a device logits stay there,
  // but for choices by rank; and steps that repeat themselves, as those of models whose ops take no positions
  // do, are recorded and replayed.
  const int32_t* next_tokens(const int32_t* tokens, const StateRows& in, const StateRows& out,
                             const TokenChoice* choices);

  // One text that goes on from `state`, which is advanced, of any length. The logits [1, V] after the last of
  // count > 0 tokens:
  Tensor advance(State& state, const int32_t* tokens, int64_t count);
  // The bits that each of text[1], ..., text[count] costs after those before it, appended to `bits`. The last
  // one is not fed.
  void score(State& state, const int32_t* text, int64_t count, std::vector<double>& bits);

  // Bytes that the results since the last hidden() and what led to them take.
  int64_t memory_in_use() const { return memory_.in_use(); }

  // Rows that one call may have before its working memory is a burden; longer texts are better fed in such
  // pieces.
  static constexpr int64_t kRowsPerCall = 1024;

 private:
  StateRows within_reach(const StateRows& rows);
  template <typename Use>
  void feed(State& state, const int32_t* tokens, int64_t count, const Use& use);

  // Of next_tokens(): what a step reads and writes, at the same places each time.
  void make_places(int64_t count);
  void compute_step(const StateRows& in, const StateRows& out, bool on_device);
  void record_or_replay(const StateRows& in, const StateRows& out);
  void forget_steps();

  const Model& model_;
  Arena scratch_, memory_;
  Arena places_;
  int64_t place_count_ = 0;
  Tensor tokens_, chosen_, logits_;
  TokenChoice* choices_ = nullptr;
  TokenChooser chooser_;
  std::vector<int64_t> offsets_;
  struct RecordedStep {
    bool done = false;       // once, so that all memory is there
    int64_t recording = -1;  // or what was recorded then
  };
  std::map<std::string, RecordedStep> steps_;
  bool repeats_ = true;       // as far as is known
  State spare_;               // of feed()
  Arena::Mark after_hidden_;  // what comes after it belongs to the last logits() or losses()
  Context context_;
};

// Element i of a row of numbers in the model's dtype.
double number_at(const Tensor& tensor, int64_t row, int64_t column);

}  // namespace harmonic
