// What the routes of a server work with.
#pragma once

#include <memory>
#include <string>

#include "harmonic/runtime/batch_scheduler.h"
#include "harmonic/runtime/prefix_cache.h"
#include "harmonic/runtime/sessions.h"
#include "harmonic/runtime/state_seal.h"
#include "harmonic/server/answer_memory.h"
#include "harmonic/server/http_server.h"
#include "harmonic/server/metrics.h"
#include "harmonic/server/server_config.h"
#include "harmonic/server/workers.h"
#include "harmonic/tokenizer/chat_template.h"

namespace harmonic {

struct Service {
  const ServerConfig& config;
  const Tokenizer& tokenizer;
  BatchScheduler& scheduler;
  PrefixCache& cache;
  Sessions& sessions;
  const StateSeal* seal;     // null: no state tokens
  const ChatTemplate* chat;  // null: chats are written as plain text
  Metrics& metrics;
  Workers& workers;
  AnswerMemory& answers;
  std::string model_name, identity;        // identity: of the exact weights and configuration
  std::string end_of_text, begin_of_text;  // what clients see of these tokens
  int64_t created = 0;                     // when the server started, in Unix seconds

  const Model& model() const { return scheduler.model(); }
};

// A request that found its route.
struct Call {
  std::shared_ptr<HttpExchange> exchange;
  std::string owner;  // whose API key came with it; empty where none is asked for
  std::string id;     // the part of the path that names something

  // Who shares the server with others: an API key, or an address where no key is asked for.
  const std::string& client() const { return owner.empty() ? exchange->request().client : owner; }
};

// Answers the call, now or later. On a worker's thread; may throw ApiError and Error.
using RouteFunction = void (*)(Service& service, const Call& call);

void route_models(Service& service, const Call& call);
void route_model(Service& service, const Call& call);
void route_completions(Service& service, const Call& call);
void route_chat_completions(Service& service, const Call& call);
void route_tokenizer_info(Service& service, const Call& call);
void route_tokenize(Service& service, const Call& call);
void route_detokenize(Service& service, const Call& call);

void route_create_session(Service& service, const Call& call);
void route_list_sessions(Service& service, const Call& call);
void route_show_session(Service& service, const Call& call);
void route_delete_session(Service& service, const Call& call);
void route_append(Service& service, const Call& call);
void route_generate(Service& service, const Call& call);
void route_fork(Service& service, const Call& call);
void route_checkpoint(Service& service, const Call& call);
void route_rewind(Service& service, const Call& call);
void route_export(Service& service, const Call& call);
void route_import(Service& service, const Call& call);
void route_score(Service& service, const Call& call);
void route_score_stream(Service& service, const Call& call);

// A whole answer of JSON.
void answer(const Call& call, std::string body);
// "cmpl-", and 24 random digits.
std::string new_id(const char* prefix);
int64_t unix_seconds();

}  // namespace harmonic
