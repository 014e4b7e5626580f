#include "harmonic/eval/lambada.h"

#include <fmt/ranges.h>

#include "harmonic/base/error.h"

namespace harmonic {

LambadaTask::LambadaTask(const std::vector<std::string>& inputs, const ReaderOptions& reader,
                         const Tokenizer& tokenizer)
    : inputs_(inputs), source_(inputs, reader), tokenizer_(tokenizer) {}

bool LambadaTask::next(TaskExample& example) {
  if (!source_.next(document_)) return false;
  ++number_;
  std::string_view text = document_;
  text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
  const size_t space = text.find_last_of(' ');
  if (space == std::string_view::npos)
    fail("{}: document {} has no last word to guess: expected words divided by spaces",
         fmt::join(inputs_, ", "), number_);
  example.prefix.assign(1, tokenizer_.bos());
  tokenizer_.encode(text.substr(0, space), example.prefix);
  example.target.clear();
  tokenizer_.encode_continuation(text.substr(space), example.target);
  example.group = 0;
  return true;
}

}  // namespace harmonic
