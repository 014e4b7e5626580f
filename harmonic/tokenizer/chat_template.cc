#include "harmonic/tokenizer/chat_template.h"

#include <fmt/ranges.h>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"

namespace harmonic {

// A message is LEAD ROLE TRAIL TEXT, the token `end`, and a line break.
struct ChatTemplate::Form {
  std::string name;
  std::string_view begin;        // a special token before each message; or empty
  std::string_view lead, trail;  // around the role
  std::string_view end;          // a special token
  std::string_view system;       // the system message where none is given; or empty
};

namespace {

constexpr std::string_view kUser = "user", kAssistant = "assistant", kSystem = "system";

// SHA-256 of the texts that are known to mean a form: those that the models of that name are published with.
constexpr std::pair<std::string_view, std::string_view> kKnown[] = {
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", "smollm2"},  // SmolLM2-*-Instruct
    {"66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362",
     "zephyr"},  // TinyLlama-1.1B-Chat-v1.0
};

}  // namespace

const std::vector<ChatTemplate::Form>& ChatTemplate::forms() {
  static const std::vector<Form> forms = {
      {"chatml", kChatMlBegin, "", "\n", kChatMlEnd, ""},
      {"smollm2", kChatMlBegin, "", "\n", kChatMlEnd,
       "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
      {"zephyr", "", "<|", "|>\n", "</s>", ""},
  };
  return forms;
}

const ChatTemplate::Form& ChatTemplate::form_named(std::string_view name) {
  for (const Form& form : forms())
    if (form.name == name) return form;
  fail("no chat template is known as \"{}\"; there are {}", name, fmt::join(names(), ", "));
}

std::vector<std::string> ChatTemplate::names() {
  std::vector<std::string> names;
  for (const Form& form : forms()) names.push_back(form.name);
  return names;
}

ChatTemplate::ChatTemplate(std::string_view name, const Tokenizer& tokenizer)
    : form_(form_named(name)), tokenizer_(tokenizer) {
  const auto token = [&](std::string_view special) {
    const int32_t id = tokenizer.special(special);
    if (id < 0)
      fail("the chat template {} has the special token {}, which the model's tokenizer does not have", name,
           special);
    return id;
  };
  if (!form_.begin.empty()) begin_ = token(form_.begin);
  end_ = token(form_.end);
}

// Text between special tokens is encoded whole, whatever it is made of.
void ChatTemplate::flush(std::vector<int32_t>& tokens, std::string& waiting) const {
  tokenizer_.encode(waiting, tokens);
  waiting.clear();
}

void ChatTemplate::add_message(std::string_view role, std::string_view text, std::vector<int32_t>& tokens,
                               std::string& waiting) const {
  if (begin_ >= 0) {
    flush(tokens, waiting);
    tokens.push_back(begin_);
  }
  waiting += fmt::format("{}{}{}{}", form_.lead, role, form_.trail, text);
  flush(tokens, waiting);
  tokens.push_back(end_);
  waiting = "\n";
}

void ChatTemplate::lead_answer(std::vector<int32_t>& tokens, std::string& waiting) const {
  if (begin_ >= 0) {
    flush(tokens, waiting);
    tokens.push_back(begin_);
  }
  waiting += fmt::format("{}{}{}", form_.lead, kAssistant, form_.trail);
  flush(tokens, waiting);
}

std::vector<int32_t> ChatTemplate::conversation(std::span<const ChatMessage> messages) const {
  std::vector<int32_t> tokens;
  std::string waiting;
  if (!form_.system.empty() && (messages.empty() || messages.front().role != kSystem))
    add_message(kSystem, form_.system, tokens, waiting);
  for (const ChatMessage& message : messages) add_message(message.role, message.text, tokens, waiting);
  lead_answer(tokens, waiting);
  return tokens;
}

std::vector<int32_t> ChatTemplate::begin(const std::optional<std::string>& system,
                                         std::string_view message) const {
  std::vector<ChatMessage> messages;
  if (system) messages.push_back({std::string(kSystem), *system});
  messages.push_back({std::string(kUser), std::string(message)});
  return conversation(messages);
}

std::vector<int32_t> ChatTemplate::next(std::string_view message) const {
  std::vector<int32_t> tokens = {end_};
  std::string waiting = "\n";
  add_message(kUser, message, tokens, waiting);
  lead_answer(tokens, waiting);
  return tokens;
}

std::string recognised_chat_template(std::string_view jinja) {
  const std::string hash = sha256(jinja);
  for (const auto& [known, name] : kKnown)
    if (hash == known) return std::string(name);
  return "";
}

}  // namespace harmonic
