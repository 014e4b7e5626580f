// An answer of texts in the forms of OpenAI's two routes: whole, or an event a piece.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "harmonic/server/generation.h"
#include "harmonic/server/service.h"
#include "harmonic/server/token_text.h"

namespace harmonic {

// Immutable; any thread may call.
class GenerationAnswer {
 public:
  GenerationAnswer(const Service& service, const GenerationPlan& plan);

  struct Usage {
    int64_t prompt = 0, written = 0, cached = 0;  // tokens
    std::string field() const;                    // "usage":{...}
  };

  // "null" where none were asked for. `offset`: of the first of the tokens; is advanced. With
  // `first_is_unknown` nothing stood before it.
  std::string logprobs(std::span<const TokenReport> tokens, bool first_is_unknown, TextOffset& offset) const;

  // Appends the event of a stream with one choice: its index, text, log-probabilities and reason to finish,
  // the last two as JSON.
  void append_event(std::string& out, size_t choice, std::string_view text, std::string_view logprobs,
                    std::string_view finish) const;
  // The same choice of an answer that is given whole, by itself.
  std::string whole(size_t choice, std::string_view text, std::string_view logprobs,
                    std::string_view finish) const;
  // With which each choice of a chat's stream begins.
  std::string opening_event(size_t choice) const;
  // The last one, without a choice, with `fields` in its place.
  std::string last_event(std::string_view fields) const;
  // The whole answer: the choices with commas between, and more fields.
  std::string body(std::string_view choices, std::string_view fields) const;

 private:
  void append_piece(std::string& out, size_t choice, std::string_view text, std::string_view logprobs,
                    std::string_view finish) const;
  std::string_view after_choice() const { return plan_.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n"; }
  bool chat() const { return plan_.form == GenerationPlan::Form::chat; }

  const Service& service_;
  const GenerationPlan& plan_;
  std::string prefix_;  // of the whole, up to the choices
};

}  // namespace harmonic
