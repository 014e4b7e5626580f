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

// Of one text's tokens, in the form of /v1/completions: {"tokens", "token_logprobs", "top_logprobs",
// "text_offset"}. `offset`: characters of the text before them; is advanced. With `first_is_unknown` the
// first has no log-probability: nothing stood before it. `ids` adds "token_ids"; what
// the levels did, where it is known, is "activity".
std::string completion_logprobs(const Service& service, std::span<const TokenReport> tokens,
                                bool first_is_unknown, bool ids, int64_t& offset);
// In the form of /v1/chat/completions: {"content": [...]}.
std::string chat_logprobs(const Service& service, std::span<const TokenReport> tokens);

}  // namespace harmonic
