// How the messages of a chat are written as tokens: a small set of forms by name, not a language for them.
//
//   chatml    <|im_start|>ROLE\nTEXT<|im_end|>\n of each message; then <|im_start|>assistant\n
//   smollm2   the same, with a system message of its own where there is none
//   zephyr    <|ROLE|>\nTEXT</s>\n of each message; then <|assistant|>\n, <|ROLE|> being ordinary text
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

inline constexpr std::string_view kChatMlBegin = "<|im_start|>", kChatMlEnd = "<|im_end|>";

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string text;
};

// Immutable. The tokenizer must outlive it.
class ChatTemplate {
 public:
  static std::vector<std::string> names();

  // Throws Error where no template has that name or the tokenizer lacks one of its special tokens.
  ChatTemplate(std::string_view name, const Tokenizer& tokenizer);

  // The tokens of a chat so far, and what leads the next answer. The template's own system message, if any,
  // goes first where the chat does not begin with one. Nothing stands before them.
  std::vector<int32_t> conversation(std::span<const ChatMessage> messages) const;
  // The same of a chat's beginning: its system message, or the template's own, if any; the user's message;
  // and what leads the answer.
  std::vector<int32_t> begin(const std::optional<std::string>& system, std::string_view message) const;
  // Those after an answer that has ended: the rest of its turn, the user's next message, and what leads the
  // answer.
  std::vector<int32_t> next(std::string_view message) const;
  // The token with which the model ends an answer.
  int32_t end_of_answer() const { return end_; }

 private:
  struct Form;
  void add_message(std::string_view role, std::string_view text, std::vector<int32_t>& tokens,
                   std::string& waiting) const;
  void lead_answer(std::vector<int32_t>& tokens, std::string& waiting) const;
  void flush(std::vector<int32_t>& tokens, std::string& waiting) const;

  const Form& form_;
  const Tokenizer& tokenizer_;
  int32_t begin_ = -1, end_ = -1;  // special tokens; begin_ is -1 where a form has none

  static const std::vector<Form>& forms();
  static const Form& form_named(std::string_view name);
};

// The name of the template that a model's own text of it (in Jinja, as in tokenizer_config.json) stands for;
// empty where it is another, or empty.
std::string recognised_chat_template(std::string_view jinja);

}  // namespace harmonic
