// How tokens are shown to clients.
#pragma once

#include <span>
#include <string>

#include "harmonic/runtime/batch_scheduler.h"
#include "harmonic/server/service.h"

namespace harmonic {

// A token's text; of one that is no whole characters, "bytes:\xc3" as OpenAI writes it; of the ones that
// begin and end texts, their names.
std::string token_name(const Service& service, int32_t token);

// Where the next token begins in a text as it is shown.
struct TextOffset {
  int64_t characters = 0;
  bool first = false;  // of a document: shown without the space that leads it
};

// Of one text's tokens, in the form of /v1/completions: {"tokens", "token_logprobs", "top_logprobs",
// "text_offset"}. `offset`: of the first of them; is advanced. With `first_is_unknown` the
// first has no log-probability: nothing stood before it. `ids` adds "token_ids"; what
// the levels did, where it is known, is "activity".
std::string completion_logprobs(const Service& service, std::span<const TokenReport> tokens,
                                bool first_is_unknown, bool ids, TextOffset& offset);
// In the form of /v1/chat/completions: {"content": [...]}.
std::string chat_logprobs(const Service& service, std::span<const TokenReport> tokens);

}  // namespace harmonic
