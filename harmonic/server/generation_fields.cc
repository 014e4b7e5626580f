// The fields that both routes for texts have, and what they ask of the scheduler.
#include <sodium.h>

#include <algorithm>

#include "harmonic/base/random.h"
#include "harmonic/server/api_error.h"
#include "harmonic/server/generation.h"

namespace harmonic {
namespace {

constexpr size_t kMostStops = 16, kLongestStop = 1024;
constexpr double kMostHeldTokens = 2 << 20;                // of an answer
constexpr double kBytesOfText = 16, kBytesOfLogprob = 96;  // that a token takes, about, in memory and as JSON

// Tokens that an answer may hold until it leaves, each with its alternatives. Those of a stream leave at
// once, but for a prompt's.
double held_tokens(const GenerationPlan& plan) {
  double prompts = 0;
  for (const Prompt& prompt : plan.prompts) prompts += static_cast<double>(prompt.tokens.size());
  const double choices = static_cast<double>(plan.choices),
               each = 1 + static_cast<double>(std::max<int64_t>(0, plan.alternatives));
  const double written =
      plan.stream ? 0
                  : static_cast<double>(plan.prompts.size()) * choices * static_cast<double>(plan.max_tokens);
  const double echoed = plan.echo ? prompts * (plan.stream ? 1 : choices) : 0;
  return (written + echoed) * each;
}

std::vector<std::string> read_stops(JsonFields& fields) {
  std::vector<std::string> stops;
  const Json* value = fields.find("stop");
  if (!value) return stops;
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kMostStops) fail_field("stop", "stop: at most {} texts", kMostStops);
  for (const Json& stop : list) {
    if (!stop.is_string()) fail_field("stop", "stop: expected a text or a list of texts");
    const auto& text = stop.get_ref<const std::string&>();
    if (text.size() > kLongestStop) fail_field("stop", "stop: a text of more than {} bytes", kLongestStop);
    if (!text.empty()) stops.push_back(text);
  }
  return stops;
}

}  // namespace

void read_common_fields(const Service& service, JsonFields& fields, GenerationPlan& plan) {
  const std::string model = fields.text("model");
  if (!model.empty() && model != service.model_name)
    throw ApiError{404,
                   fmt::format("there is no model of this name; this server has \"{}\"", service.model_name),
                   "model", "model_not_found", 0};
  plan.sampling.temperature = fields.number("temperature", 1, 0, 100);
  plan.sampling.top_p = fields.number("top_p", 1, 0, 1);
  plan.sampling.min_p = fields.number("min_p", 0, 0, 1);
  plan.sampling.top_k = std::max<int64_t>(0, fields.integer("top_k", 0, -1, INT32_MAX));
  uint64_t seed;
  ::randombytes_buf(&seed, sizeof seed);
  plan.sampling.seed =
      static_cast<uint64_t>(fields.integer("seed", static_cast<int64_t>(seed), INT64_MIN, INT64_MAX));
  plan.choices = fields.integer("n", 1, 1, service.config.max_choices);
  plan.stop = read_stops(fields);
  plan.ignore_end = fields.flag("ignore_end", false);
  plan.stream = fields.flag("stream", false);
  if (const Json* options = fields.find("stream_options")) {
    if (!options->is_object()) fail_field("stream_options", "stream_options: expected an object");
    for (const auto& [name, value] : options->items()) {
      // How long an event is gives nothing away here that is not in it.
      if (name != "include_usage" && name != "include_obfuscation")
        fail_field("stream_options", "stream_options: unknown field \"{}\"", name.substr(0, 64));
      if (!value.is_boolean())
        fail_field("stream_options", "stream_options: expected true or false for each");
      if (name == "include_usage") plan.include_usage = value.get<bool>();
    }
  }
  for (const char* name : {"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"})
    fields.ignore(name);
  for (const char* name : {"frequency_penalty", "presence_penalty", "logit_bias"}) fields.unsupported(name);
}

void check_sizes(const Service& service, const GenerationPlan& plan) {
  const auto texts = static_cast<int64_t>(plan.prompts.size()) * plan.choices;
  if (texts > service.config.max_choices)
    fail_field("n", "{} prompts times n = {} are {} texts; at most {} go in one request", plan.prompts.size(),
               plan.choices, texts, service.config.max_choices);
  int64_t tokens = 0;
  for (const Prompt& prompt : plan.prompts) tokens += static_cast<int64_t>(prompt.tokens.size());
  if (tokens > service.config.max_prompt_tokens)
    fail_field("prompt", "{} tokens of prompt; at most {} go in one request", tokens,
               service.config.max_prompt_tokens);
  if (const double held = held_tokens(plan); held > kMostHeldTokens)
    fail_field("max_tokens",
               "the answer may have {:.0f} tokens, alternatives counted; at most {:.0f} go in one: ask for "
               "fewer, or with stream",
               held, kMostHeldTokens);
}

int64_t answer_bytes(const GenerationPlan& plan) {
  return static_cast<int64_t>(held_tokens(plan) * (plan.alternatives < 0 ? kBytesOfText : kBytesOfLogprob));
}

void set_writing(const GenerationPlan& plan, int64_t choice, GenerationRequest& request) {
  request.max_tokens = plan.max_tokens;
  request.sampling = plan.sampling;
  if (choice > 0)
    request.sampling.seed =
        Random(plan.sampling.seed, stream_of("choice")).bits(static_cast<uint64_t>(choice));
  request.alternatives = plan.alternatives;
  request.stop = plan.stop;
  request.ignore_end = plan.ignore_end;
  request.activity = plan.activity;
  request.end_token = plan.end_token;
}

}  // namespace harmonic
