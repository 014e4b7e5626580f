#include "harmonic/server/generation_answer.h"

#include "harmonic/server/json_text.h"
#include "harmonic/server/token_text.h"

namespace harmonic {

std::string GenerationAnswer::Usage::field() const {
  return fmt::format(
      R"("usage":{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{}}}}})",
      prompt, written, prompt + written, cached);
}

GenerationAnswer::GenerationAnswer(const Service& service, const GenerationPlan& plan)
    : service_(service), plan_(plan) {
  const char* object = !chat()       ? "text_completion"
                       : plan.stream ? "chat.completion.chunk"
                                     : "chat.completion";
  prefix_ = fmt::format(
      R"({{"id":{},"object":"{}","created":{},"model":{},"system_fingerprint":"{:.16}","choices":[)",
      json_text(plan.id), object, unix_seconds(), json_text(service.model_name), service.identity);
}

std::string GenerationAnswer::logprobs(std::span<const TokenReport> tokens, bool first_is_unknown,
                                       int64_t& offset) const {
  if (plan_.alternatives < 0) return "null";
  return chat() ? chat_logprobs(service_, tokens)
                : completion_logprobs(service_, tokens, first_is_unknown, plan_.token_ids, offset);
}

std::string GenerationAnswer::piece(size_t choice, std::string_view text, std::string_view logprobs,
                                    std::string_view finish) const {
  if (!chat())
    return fmt::format(R"({{"index":{},"text":{},"logprobs":{},"finish_reason":{}}})", choice,
                       json_text(text), logprobs, finish);
  return fmt::format(R"({{"index":{},"delta":{{{}}},"logprobs":{},"finish_reason":{}}})", choice,
                     text.empty() ? std::string() : "\"content\":" + json_text(text), logprobs, finish);
}

std::string GenerationAnswer::whole(size_t choice, std::string_view text, std::string_view logprobs,
                                    std::string_view finish) const {
  if (!chat()) return piece(choice, text, logprobs, finish);
  return fmt::format(
      R"({{"index":{},"message":{{"role":"assistant","content":{},"refusal":null}},"logprobs":{},"finish_reason":{}}})",
      choice, json_text(text), logprobs, finish);
}

std::string GenerationAnswer::opening(size_t choice) const {
  return fmt::format(
      R"({{"index":{},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}})",
      choice);
}

std::string GenerationAnswer::event(std::string_view choice) const {
  return fmt::format("data: {}{}{}\n\n", prefix_, choice, plan_.include_usage ? "],\"usage\":null}" : "]}");
}

std::string GenerationAnswer::last_event(std::string_view fields) const {
  return fmt::format("data: {}],{}}}\n\n", prefix_, fields);
}

std::string GenerationAnswer::body(std::string_view choices, std::string_view fields) const {
  return fmt::format("{}{}],{}}}", prefix_, choices, fields);
}

}  // namespace harmonic
