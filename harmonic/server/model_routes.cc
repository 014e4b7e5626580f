// What a server says of its model and tokenizer: /v1/models, and the routes that lm-evaluation-harness asks.
#include <sodium.h>

#include <chrono>

#include "harmonic/server/api_error.h"
#include "harmonic/server/json_fields.h"
#include "harmonic/server/json_text.h"
#include "harmonic/server/service.h"

namespace harmonic {
namespace {

std::string model_object(const Service& service) {
  const ModelConfig& config = service.model().config();
  return fmt::format(
      R"({{"id":{},"object":"model","created":{},"owned_by":"harmonic","identity":"{}","vocab_size":{},)"
      R"("state_bytes":{},"max_model_len":{}}})",
      json_text(service.model_name), service.created, service.identity, config.vocab_size,
      service.model().state_layout().bytes(),
      config.longest_text() > 0 ? fmt::format("{}", config.longest_text()) : "null");
}

std::string ids_text(const std::vector<int32_t>& tokens) {
  std::string out = "[";
  for (const int32_t token : tokens) out += fmt::format("{}{}", out.size() > 1 ? "," : "", token);
  return out + "]";
}

}  // namespace

void answer(const Call& call, std::string body) {
  call.exchange->respond({200, "application/json", std::move(body), {}});
}

std::string new_id(const char* prefix) {
  unsigned char bytes[12];
  ::randombytes_buf(bytes, sizeof bytes);
  char text[2 * sizeof bytes + 1];
  ::sodium_bin2hex(text, sizeof text, bytes, sizeof bytes);
  return prefix + std::string(text);
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void route_models(Service& service, const Call& call) {
  answer(call, fmt::format(R"({{"object":"list","data":[{}]}})", model_object(service)));
}

void route_model(Service& service, const Call& call) {
  if (call.id != service.model_name)
    throw ApiError{404,
                   fmt::format("there is no model of this name; this server has \"{}\"", service.model_name),
                   "model", "model_not_found", 0};
  answer(call, model_object(service));
}

void route_tokenizer_info(Service& service, const Call& call) {
  answer(
      call,
      fmt::format(
          R"({{"eos_token":{},"bos_token":{},"pad_token":null,"vocab_size":{},"chat_template":null}})",
          json_text(service.end_of_text), json_text(service.begin_of_text), service.tokenizer.vocab_size()));
}

void route_tokenize(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  if (!fields.find("prompt")) fail_field("prompt", "prompt: expected the text to tokenise");
  const std::string text = fields.text("prompt");
  const bool special = fields.flag("add_special_tokens", false);
  fields.ignore("model");
  fields.done();
  std::vector<int32_t> tokens;
  if (special) tokens.push_back(service.tokenizer.bos());
  // A client that asks for the id of a token by its name means that token; within a text it is text.
  if (text == service.end_of_text) {
    tokens.push_back(service.tokenizer.eot());
  } else if (text == service.begin_of_text) {
    tokens.push_back(service.tokenizer.bos());
  } else {
    service.tokenizer.encode(text, tokens);
  }
  answer(call, fmt::format(R"({{"tokens":{},"count":{}}})", ids_text(tokens), tokens.size()));
}

void route_detokenize(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  const Json* list = fields.find("tokens");
  fields.ignore("model");
  fields.done();
  if (!list || !list->is_array()) fail_field("tokens", "tokens: expected a list of token ids");
  std::vector<int32_t> tokens;
  for (const Json& token : *list) {
    if (!token.is_number_integer() || token < 0 || token >= service.tokenizer.vocab_size())
      fail_field("tokens", "tokens: expected token ids from 0 to {}", service.tokenizer.vocab_size() - 1);
    tokens.push_back(token.get<int32_t>());
  }
  answer(call, fmt::format(R"({{"prompt":{}}})", json_text(service.tokenizer.decode(tokens))));
}

}  // namespace harmonic
