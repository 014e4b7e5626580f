#include "harmonic/server/generation_answer.h"

#include <iterator>

#include "harmonic/server/json_text.h"

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
                                       TextOffset& offset) const {
  if (plan_.alternatives < 0) return "null";
  return chat() ? chat_logprobs(service_, tokens)
                : completion_logprobs(service_, tokens, first_is_unknown, plan_.token_ids, offset);
}

// By hand: it is done for every token.
void GenerationAnswer::append_piece(std::string& out, size_t choice, std::string_view text,
                                    std::string_view logprobs, std::string_view finish) const {
  fmt::format_to(std::back_inserter(out), R"({{"index":{},)", choice);
  if (!chat()) {
    out += R"("text":)";
    append_json_text(out, text);
  } else {
    out += R"("delta":{)";
    if (!text.empty()) {
      out += R"("content":)";
      append_json_text(out, text);
    }
    out += '}';
  }
  out += R"(,"logprobs":)";
  out += logprobs;
  out += R"(,"finish_reason":)";
  out += finish;
  out += '}';
}

void GenerationAnswer::append_event(std::string& out, size_t choice, std::string_view text,
                                    std::string_view logprobs, std::string_view finish) const {
  out += "data: ";
  out += prefix_;
  append_piece(out, choice, text, logprobs, finish);
  out += after_choice();
}

std::string GenerationAnswer::whole(size_t choice, std::string_view text, std::string_view logprobs,
                                    std::string_view finish) const {
  if (!chat()) {
    std::string out;
    append_piece(out, choice, text, logprobs, finish);
    return out;
  }
  return fmt::format(
      R"({{"index":{},"message":{{"role":"assistant","content":{},"refusal":null}},"logprobs":{},"finish_reason":{}}})",
      choice, json_text(text), logprobs, finish);
}

std::string GenerationAnswer::opening_event(size_t choice) const {
  return fmt::format(
      R"(data: {}{{"index":{},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}{})",
      prefix_, choice, after_choice());
}

std::string GenerationAnswer::last_event(std::string_view fields) const {
  return fmt::format("data: {}],{}}}\n\n", prefix_, fields);
}

std::string GenerationAnswer::body(std::string_view choices, std::string_view fields) const {
  return fmt::format("{}{}],{}}}", prefix_, choices, fields);
}

}  // namespace harmonic
