// One text that a model reads or writes: its state, and the token that the state has not seen yet.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/model/inference.h"
#include "harmonic/runtime/text_point.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// Constant memory, whatever the length. Not thread-safe; shares the Inference with other streams of the same
// thread. Every document begins with the token `bos`. Tokens must be of the model's vocabulary.
class TextStream {
 public:
  TextStream(Inference& inference, int32_t bos)
      : inference_(inference), state_(inference.model().state_layout()), pending_(bos), bos_(bos) {}

  // Begins a new document: the model forgets everything.
  void restart();

  // The bits that each of `tokens` costs after what came before, appended to `bits`; they become part of the
  // text.
  void score(const std::vector<int32_t>& tokens, std::vector<double>& bits);
  // Makes `tokens` part of the text without scoring them.
  void append(const std::vector<int32_t>& tokens);
  // Logits [1, V] of the next token; they live until the next call. The text does not change.
  Tensor next_logits();

  // Whether the document has no token yet.
  bool at_beginning() const { return position() == 0; }

  // Tokens so far, those of earlier documents and each leading one included: the index of the next
  // one, for a sampler.
  uint64_t length() const { return earlier_ + position() + 1; }
  // Whether the model can take no more of this document: next_logits() would throw.
  bool full() const;

  // To a file and back, exactly. With it goes `unfinished`, which load() returns: the bytes of a character
  // that the text ends within and that its reader has not been shown (Utf8Stream::held()). Loading throws
  // Error for a damaged file or the state of another model, and then leaves this unchanged. See
  // docs/formats.md.
  void save(const std::filesystem::path& path, std::string_view unfinished = {}) const;
  std::string load(const std::filesystem::path& path);

  // Where the text stands, as a value, and back. `unfinished` is the caller's.
  TextPoint point() const;
  void go_on_from(TextPoint point);

 private:
  std::vector<int32_t> after_pending(const std::vector<int32_t>& tokens) const;
  bool looked_ahead() const { return !before_.empty(); }
  // Tokens that the state had seen before pending_.
  uint64_t position() const { return state_.position() - (looked_ahead() ? 1 : 0); }
  // The state after every token but pending_.
  void go_back(State& state) const;

  Inference& inference_;
  State state_;         // after every token but pending_; when next_logits() has looked ahead, after it too
  std::string before_;  // the part before the caches that it then had. What a cache got since, nobody reads
  int32_t pending_;     // the last token
  int32_t bos_;
  uint64_t earlier_ = 0;  // tokens of earlier documents
};

}  // namespace harmonic
