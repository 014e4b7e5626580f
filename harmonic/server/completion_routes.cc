// POST /v1/completions and /v1/chat/completions.
#include <algorithm>

#include "harmonic/server/api_error.h"
#include "harmonic/server/generation.h"
#include "harmonic/server/state_fields.h"
#include "harmonic/tokenizer/utf8_stream.h"

namespace harmonic {
namespace {

constexpr int64_t kMostAlternatives = 20;

// A list of token ids, as clients send texts that they have tokenised.
Prompt prompt_of_tokens(const Service& service, const Json& list, bool first) {
  const Tokenizer& tokenizer = service.tokenizer;
  Prompt prompt;
  prompt.tokens.reserve(list.size());
  for (const Json& token : list) {
    if (!token.is_number_integer() || token < 0 || token >= tokenizer.vocab_size())
      fail_field("prompt", "prompt: expected token ids from 0 to {}", tokenizer.vocab_size() - 1);
    prompt.tokens.push_back(token.get<int32_t>());
  }
  prompt.text = tokenizer.decode(prompt.tokens);
  if (prompt.tokens.empty()) return prompt;
  const int32_t begin = prompt.tokens.front();
  if (!first) {
    // What decode() leaves out at the beginning of a text.
    const std::string_view bytes = tokenizer.bytes_of(begin);
    prompt.text.insert(0, bytes.substr(0, bytes.size() - tokenizer.first_bytes_of(begin).size()));
  } else if (begin == tokenizer.bos() || begin == tokenizer.eot()) {
    // Every document is led by this token anyway.
    prompt.with_leading = true;
    prompt.tokens.erase(prompt.tokens.begin());
  }
  return prompt;
}

Prompt prompt_of_text(const Service& service, const Json& text, bool first) {
  if (!text.is_string())
    fail_field("prompt", "prompt: expected a text, a list of texts, token ids or a list of such");
  Prompt prompt;
  prompt.text = text.get<std::string>();
  prompt.tokens = encode_text(service.tokenizer, prompt.text, first);
  return prompt;
}

// `first`: each begins a document.
std::vector<Prompt> read_prompts(const Service& service, JsonFields& fields, bool first) {
  const Json* value = fields.find("prompt");
  if (!value) return {Prompt{}};
  if (!value->is_array()) return {prompt_of_text(service, *value, first)};
  if (value->empty()) fail_field("prompt", "prompt: an empty list");
  if (value->front().is_number()) return {prompt_of_tokens(service, *value, first)};
  if (static_cast<int64_t>(value->size()) > service.config.max_choices)
    fail_field("prompt", "prompt: at most {} in one request", service.config.max_choices);
  std::vector<Prompt> prompts;
  for (const Json& one : *value)
    prompts.push_back(one.is_array() ? prompt_of_tokens(service, one, first)
                                     : prompt_of_text(service, one, first));
  return prompts;
}

}  // namespace

void read_completion(Service& service, JsonFields& fields, GenerationPlan& plan) {
  plan.form = GenerationPlan::Form::completion;
  plan.id = new_id("cmpl-");
  read_common_fields(service, fields, plan);
  plan.max_tokens = fields.integer("max_tokens", 16, 0, service.config.max_tokens);
  plan.alternatives = fields.integer("logprobs", -1, 0, kMostAlternatives);
  plan.echo = fields.flag("echo", false);
  plan.token_ids = fields.flag("return_token_ids", false);
  plan.activity = fields.flag("return_activity", false);
  for (const char* name : {"return_token_ids", "return_activity"})
    if (plan.alternatives < 0 && fields.flag(name, false))
      fail_field(name, "{}: set logprobs as well, which are of the same tokens", name);
  fields.unsupported("suffix", "");
  fields.unsupported("best_of", 1);
  plan.prompts = read_prompts(service, fields, plan.begins_document());
  // What an echo shows ends with a whole character: one that the prompt begins is shown where it ends.
  for (Prompt& prompt : plan.prompts) {
    Utf8Stream characters;
    if (plan.from) characters.push(plan.from->unfinished);
    prompt.text = characters.push(prompt.text);
  }
}

void route_completions(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  GenerationPlan plan;
  const bool return_state = fields.flag("return_state", false), store = fields.flag("store", false);
  const std::string previous = fields.text("previous_response_id");
  plan.from = read_state_token(service, call, fields);
  plan.from_was_sent = plan.from != nullptr;
  if (!previous.empty()) {
    if (plan.from) fail_field("state", "state and previous_response_id: give one of them");
    plan.from = with_sessions([&] { return service.sessions.look(call.owner, previous).point; });
  }
  read_completion(service, fields, plan);
  fields.done();
  if (return_state) check_state_tokens(service);
  if ((return_state || store) && (plan.prompts.size() != 1 || plan.choices != 1))
    fail_field("n", "one state is kept or returned: expected one prompt and n = 1");
  if (return_state || store) {
    plan.ended = [&service, call, return_state, store, id = plan.id,
                  sent = plan.from_was_sent](std::vector<TextPoint> points) {
      std::string more;
      if (return_state) more = state_token_field(service, call, points.front(), sent);
      if (store) {
        check_point(service, points.front(), sent);
        with_sessions([&] {
          service.sessions.create_as(id, call.owner,
                                     std::make_shared<const TextPoint>(std::move(points.front())));
        });
      }
      return more;
    };
  }
  generate(service, call, std::move(plan));
}

namespace {

// What clients call a role, what a template does, and how it is named in plain text.
struct Speaker {
  const char *role, *in_template, *name;
};
constexpr Speaker kSpeakers[] = {{"system", "system", "System"},
                                 {"developer", "system", "System"},
                                 {"user", "user", "User"},
                                 {"assistant", "assistant", "Assistant"}};

const Speaker& speaker_of(const Json& message) {
  const auto role = message.find("role");
  for (const Speaker& speaker : kSpeakers)
    if (role != message.end() && *role == speaker.role) return speaker;
  fail_field("messages", "messages: expected the role system, developer, user or assistant");
}

std::string content_of(const Json& message) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) return {};
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array())
    fail_field("messages", "messages: expected a text as content, or a list of parts");
  std::string text;
  for (const Json& part : *content) {
    const auto type = part.find("type");
    const auto found = part.find("text");
    if (!part.is_object() || type == part.end() || *type != "text" || found == part.end() ||
        !found->is_string())
      fail_field("messages", "messages: only parts of the type text are known here");
    JsonFields fields(part);
    fields.ignore("type");
    fields.ignore("text");
    fields.done();
    text += found->get<std::string>();
  }
  return text;
}

// What clients send back of our own answers says nothing more; all else would change the text.
void check_message(const Json& message) {
  JsonFields fields(message);
  for (const char* name : {"role", "content", "name", "refusal", "annotations"}) fields.ignore(name);
  for (const char* name : {"tool_calls", "tool_call_id", "function_call", "audio"}) fields.unsupported(name);
  fields.done();
}

// As the model's template has it, or as plain text, for models that were taught no other form.
void read_messages(const Service& service, const Json* messages, GenerationPlan& plan) {
  if (!messages || !messages->is_array() || messages->empty())
    fail_field("messages", "messages: expected a list of at least one");
  Prompt prompt;
  std::vector<ChatMessage> chat;
  for (const Json& message : *messages) {
    if (!message.is_object()) fail_field("messages", "messages: expected an object each");
    check_message(message);
    const Speaker& speaker = speaker_of(message);
    chat.push_back({speaker.in_template, content_of(message)});
    prompt.text += fmt::format("{}: {}\n\n", speaker.name, chat.back().text);
  }
  if (service.chat) {
    prompt.tokens = service.chat->conversation(chat);
    plan.end_token = service.chat->end_of_answer();
    // Its first token leads the text in place of the one that leads every other.
    if (const int32_t first = prompt.tokens.front(); first != service.tokenizer.bos()) {
      TextPoint point = beginning_of_text(service.model());
      point.pending = first;
      plan.from = std::make_shared<const TextPoint>(std::move(point));
    }
    prompt.tokens.erase(prompt.tokens.begin());
    prompt.with_leading = true;
  } else {
    prompt.text += "Assistant:";
    prompt.tokens = service.tokenizer.encode(prompt.text);
    for (const Speaker& speaker : kSpeakers) plan.stop.push_back(fmt::format("\n\n{}:", speaker.name));
  }
  plan.prompts = {std::move(prompt)};
}

}  // namespace

void route_chat_completions(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  GenerationPlan plan;
  plan.form = GenerationPlan::Form::chat;
  plan.id = new_id("chatcmpl-");
  read_common_fields(service, fields, plan);
  const int64_t most = service.config.max_tokens;
  plan.max_tokens = fields.integer("max_tokens", std::min<int64_t>(256, most), 0, most);
  plan.max_tokens = fields.integer("max_completion_tokens", plan.max_tokens, 0, most);
  const bool logprobs = fields.flag("logprobs", false);
  plan.alternatives = fields.integer("top_logprobs", 0, 0, kMostAlternatives);
  if (!logprobs && plan.alternatives > 0)
    fail_field("top_logprobs", "top_logprobs: set logprobs to true as well");
  if (!logprobs) plan.alternatives = -1;
  read_messages(service, fields.find("messages"), plan);
  for (const char* name : {"tools", "functions", "audio", "prediction"}) fields.unsupported(name);
  fields.unsupported("tool_choice", "none");
  fields.unsupported("response_format", Json{{"type", "text"}});
  for (const char* name : {"store", "parallel_tool_calls", "reasoning_effort", "verbosity", "modalities"})
    fields.ignore(name);
  fields.done();
  generate(service, call, std::move(plan));
}

}  // namespace harmonic
