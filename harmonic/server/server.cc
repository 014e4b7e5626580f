#include "harmonic/server/server.h"

#include <sodium.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>

#include "harmonic/base/files.h"
#include "harmonic/base/log.h"
#include "harmonic/runtime/redis_connection.h"
#include "harmonic/server/access_log.h"
#include "harmonic/server/access_rules.h"
#include "harmonic/server/api_error.h"
#include "harmonic/server/clients.h"
#include "harmonic/server/counted_exchange.h"
#include "harmonic/server/json_text.h"
#include "harmonic/server/page.h"
#include "harmonic/server/routes.h"
#include "harmonic/server/service.h"
#include "harmonic/tokenizer/json_vocabulary.h"

namespace harmonic {
namespace {

constexpr int kWorkers = 2;

// The name of a special token, from the tokenizer's own file.
std::string name_of_token(const VocabularyJson& tokenizer, int32_t token) {
  for (const VocabularyJson& entry : member(tokenizer, "added_tokens"))
    if (entry.value("id", -1) == token && entry.contains("content"))
      return entry["content"].get<std::string>();
  return "<|endoftext|>";
}

void raise_descriptor_limit() {
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Secrets come from the environment: other users can read a command line.
std::string secret(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}
std::string environment_key() { return secret("HARMONIC_API_KEY"); }

// Bytes of memory that this process has.
double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0, resident = 0;
  file >> pages >> resident;
  return static_cast<double>(resident * ::sysconf(_SC_PAGESIZE));
}

HttpOptions http_options(const ServerConfig& config) {
  HttpOptions options;
  options.host = config.host;
  options.port = config.port;
  options.unix_socket = config.unix_socket;
  options.max_connections = config.max_connections;
  options.max_header_bytes = config.max_header_bytes;
  options.max_body_bytes = config.max_body_bytes;
  options.idle_seconds = config.idle_seconds;
  options.header_seconds = config.header_seconds;
  options.body_seconds = config.body_seconds;
  options.write_seconds = config.write_seconds;
  options.gather_seconds = config.gather_milliseconds / 1e3;
  return options;
}

// The file of a model's sessions where none is named.
std::string own_session_file(const std::string& identity) {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if ((!state || !*state) && (!home || !*home))
    fail_usage("neither XDG_STATE_HOME nor HOME is set; say --sessions sqlite:FILE or --sessions memory");
  const std::filesystem::path folder =
      (state && *state ? std::filesystem::path(state) : std::filesystem::path(home) / ".local/state") /
      "harmonic";
  make_folder(folder);
  return folder / fmt::format("sessions-{:.16}.db", identity);
}

// `owners`: API keys that share the store.
std::unique_ptr<SessionStore> store_of(const ServerConfig& config, const Model& model,
                                       const std::string& identity, int64_t owners) {
  if (config.sessions == "memory") {
    const int64_t bytes = config.session_memory_mb << 20;
    return make_memory_store({bytes, bytes / owners});
  }
  if (config.sessions.starts_with("redis:")) {
    RedisOptions options = RedisOptions::of(config.sessions);
    options.password = secret("HARMONIC_REDIS_PASSWORD");
    return make_redis_store(options, model, identity, config.session_memory_mb << 20);
  }
  constexpr std::string_view kFile = "sqlite:";
  const std::string file =
      config.sessions == "sqlite" ? own_session_file(identity) : config.sessions.substr(kFile.size());
  return make_sqlite_store(file, model, identity, config.session_memory_mb << 20);
}

SchedulerOptions scheduler_options(const ServerConfig& config, int threads) {
  return {.threads = threads,
          .max_batch = config.batch,
          .max_waiting = config.queue,
          .step_milliseconds = config.step_milliseconds};
}

}  // namespace

class Server::Implementation : public HttpHandler {
 public:
  Implementation(const ServerConfig& config, LoadedModel loaded, const std::string& name, int threads)
      : config_(config),
        loaded_(std::move(loaded)),
        access_(config, environment_key()),
        limits_(config.concurrent_per_client, config.requests_per_minute),
        cache_(config.cache_mb << 20),
        identity_(identity_of(*loaded_.model)),
        sessions_(store_of(config, *loaded_.model, identity_, access_.owners()), config.max_sessions,
                  config.max_sessions_per_key > 0
                      ? config.max_sessions_per_key
                      : std::max<int64_t>(1, config.max_sessions / access_.owners())),
        scheduler_(*loaded_.model, *loaded_.tokenizer, scheduler_options(config, threads)),
        workers_(kWorkers),
        service_{config_,
                 *loaded_.tokenizer,
                 scheduler_,
                 cache_,
                 sessions_,
                 nullptr,
                 nullptr,
                 metrics_,
                 workers_,
                 answers_,
                 config.model_name.empty() ? name : config.model_name,
                 identity_,
                 {},
                 {},
                 unix_seconds()} {
    if (::sodium_init() < 0) fail("libsodium cannot be used here");
    const VocabularyJson tokenizer = parse_vocabulary_json(loaded_.tokenizer->to_json(), "the tokenizer");
    service_.end_of_text = name_of_token(tokenizer, loaded_.tokenizer->eot());
    service_.begin_of_text = name_of_token(tokenizer, loaded_.tokenizer->bos());
    if (!loaded_.chat_template.empty())
      service_.chat = &chat_.emplace(loaded_.chat_template, *loaded_.tokenizer);
    if (!config.access_log.empty()) access_log_.emplace(config.access_log);
    if (!config.keyring.empty()) service_.seal = &seal_.emplace(config.keyring, *loaded_.model, identity_);
    raise_descriptor_limit();
    http_.emplace(http_options(config), *this);
  }

  ~Implementation() override {
    // Texts end first, and what they leave to do is done.
    scheduler_.stop();
    workers_.stop();
  }

  int port() const { return http_->port(); }
  void run(bool signals) {
    http_->run(signals, [this] {
      log("not ready any more{}; requests at work then have {} seconds",
          config_.notice_seconds > 0
              ? fmt::format(", and no new requests in {} seconds", config_.notice_seconds)
              : "; no new requests",
          config_.drain_seconds);
      leave();
    });
  }
  std::string address() const {
    if (!config_.unix_socket.empty()) return config_.unix_socket;
    const bool v6 = config_.host.find(':') != std::string::npos;
    return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", config_.host, v6 ? "]" : "", port());
  }
  void stop() {
    http_->post([this] { leave(); });
  }

  // --- HttpHandler, on the loop's thread ---

  bool takes_pieces(const HttpRequest& head) override { return harmonic::takes_pieces(head); }

  HttpResponse refusal(int status, std::string_view why) override {
    return status == 503 ? response_of(ApiError{status, std::string(why), "", "overloaded", 1})
                         : response_of(ApiError{status, std::string(why), "", "bad_request", 0});
  }

  void handle(std::shared_ptr<HttpExchange> exchange) override {
    try {
      dispatch(exchange);
    } catch (const ApiError& error) {
      HttpResponse response = response_of(error);
      if (error.status == 405) response.headers.emplace_back("Allow", methods_of(exchange->request()));
      respond(exchange, std::move(response));
    } catch (const std::exception& error) {
      respond(exchange, response_of(internal_error(error.what())));
    }
  }

  std::optional<HttpResponse> refuses(const HttpRequest& head) override {
    const bool has_body = head.count("content-length") + head.count("transfer-encoding") > 0;
    if (!has_body) return {};
    try {
      access_.check_host(head);
      access_.check_origin(head);
      access_.owner_of(head);
      return {};
    } catch (const ApiError& error) {
      return access_.with_origin(head, response_of(error));
    }
  }

  void ended(const HttpRequest& request, int status, int64_t bytes, double seconds) override {
    const std::string route = route_name(request);
    metrics_.count_status(route, status);
    metrics_.request.add(seconds);
    if (!access_log_) return;
    access_log_->add(fmt::format(
        R"({{"time":{},"client":{},"method":{},"route":"{}","status":{},"bytes":{},"seconds":{:.6f}}})",
        json_number(static_cast<double>(unix_seconds())), json_text(request.client),
        json_text(request.method.substr(0, 16)), route, status, bytes, seconds));
  }

 private:
  static ApiError draining_error() { return {503, "the server is going down", "", "draining", 5}; }

  // So that pages of allowed origins can read it.
  void respond(const std::shared_ptr<HttpExchange>& exchange, HttpResponse response) const {
    exchange->respond(access_.with_origin(exchange->request(), std::move(response)));
  }

  void dispatch(const std::shared_ptr<HttpExchange>& exchange) {
    const HttpRequest& request = exchange->request();
    // Load balancers ask for these under any name, and they give nothing away.
    if (request.path != "/health" && request.path != "/ready") access_.check_host(request);
    access_.check_origin(request);
    if (const std::string methods = methods_of(request); request.method == "OPTIONS" && !methods.empty()) {
      respond(exchange, {204, "", "", {{"Allow", methods}}});
      return;
    }
    const std::string_view path = request.path;
    const bool reads = request.method == "GET" || request.method == "HEAD";
    if (reads && path == "/") return respond(exchange, page_response());
    if (reads && path == "/openapi.json")
      return respond(exchange, {200, "application/json", std::string(kOpenApi), {}});
    if (reads && path == "/health")
      return respond(exchange, {200, "application/json", R"({"status":"ok"})", {}});
    if (reads && path == "/ready" && !leaving_)
      return respond(exchange, {200, "application/json", R"({"status":"ready"})", {}});
    if (reads && path == "/ready") throw draining_error();
    Call call{exchange, access_.owner_of(request), {}};
    if (reads && path == "/metrics") {
      workers_.post([this, exchange] {
        respond(exchange, {200, "text/plain; version=0.0.4", metrics_text(), {}});
      });
      return;
    }
    const Route& route = route_of(request, &call.id);
    if (draining_) throw draining_error();
    const std::string client = call.client();
    if (const auto refused = limits_.begin(client))
      throw ApiError{429, refused->why, "", "rate_limit_exceeded", refused->retry_after};
    const std::shared_ptr<void> counted(nullptr, [this, client](void*) { limits_.end(client); });
    call.exchange = std::make_shared<CountedExchange>(exchange, access_.cors_headers(request), counted);
    workers_.post([this, call = std::move(call), function = route.function] { answer(call, function); });
  }

  void answer(const Call& call, RouteFunction function) {
    try {
      function(service_, call);
    } catch (const ApiError& error) {
      call.exchange->respond(response_of(error));
    } catch (const Error& error) {
      call.exchange->respond(response_of(ApiError{400, error.what(), "", "invalid_request", 0}));
    } catch (const std::bad_alloc&) {
      call.exchange->respond(response_of(ApiError{503, "out of memory", "", "overloaded", 5}));
    } catch (const std::exception& error) {
      call.exchange->respond(response_of(internal_error(error.what())));
    } catch (...) {
      call.exchange->respond(response_of(internal_error("of an unknown kind")));
    }
  }

  std::string metrics_text() const {
    const BatchScheduler::Load load = scheduler_.load();
    const auto gauge = [](const char* name, const char* help, auto value) {
      return metric_text(name, help, "gauge", static_cast<double>(value));
    };
    return metrics_.text() +
           gauge("harmonic_connections", "Connections that are open.", http_->connections()) +
           gauge("harmonic_texts_waiting", "Texts in the queue.", load.waiting) +
           gauge("harmonic_texts_working", "Texts at work.", load.working) +
           gauge("harmonic_cache_bytes", "Of states of prompts' beginnings.", cache_.bytes()) +
           gauge("harmonic_cache_entries", "States of prompts' beginnings.", cache_.entries()) +
           sessions_gauge() +
           gauge("harmonic_sessions_memory_bytes", "Of their states in memory.",
                 sessions_.bytes_in_memory()) +
           gauge("harmonic_state_bytes", "Of the state of one text.", loaded_.model->state_layout().bytes()) +
           gauge("harmonic_resident_memory_bytes", "Memory of the process.", resident_bytes()) +
           fmt::format(
               "# HELP harmonic_build_info The program and its model.\n# TYPE harmonic_build_info "
               "gauge\nharmonic_build_info{{identity=\"{:.16}\"}} 1\n",
               service_.identity);
  }

  // Nothing while their store cannot be reached.
  std::string sessions_gauge() const {
    try {
      return metric_text("harmonic_sessions", "Sessions that are kept.", "gauge",
                         static_cast<double>(sessions_.count()));
    } catch (const Error&) {
      return {};
    }
  }

  // A load balancer is told at /ready, and has a time to send nobody any more, before somebody is refused.
  void leave() {
    if (std::exchange(leaving_, true)) return;
    if (config_.notice_seconds == 0) return drain();
    http_->post_later(config_.notice_seconds, [this] { drain(); });
  }

  void drain() {
    draining_ = true;
    http_->drain(config_.drain_seconds);
  }

  const ServerConfig config_;
  LoadedModel loaded_;
  const AccessRules access_;
  ClientLimits limits_;
  Metrics metrics_;
  PrefixCache cache_;
  const std::string identity_;
  Sessions sessions_;
  AnswerMemory answers_;
  std::optional<StateSeal> seal_;
  std::optional<ChatTemplate> chat_;
  std::optional<AccessLog> access_log_;
  std::optional<HttpServer> http_;  // before the others: exchanges that they hold use its loop
  BatchScheduler scheduler_;
  Workers workers_;
  Service service_;
  bool leaving_ = false, draining_ = false;  // of the loop's thread
};

Server::Server(const ServerConfig& config, LoadedModel model, const std::string& name, int threads) {
  config.validate(!environment_key().empty());
  implementation_ = std::make_unique<Implementation>(config, std::move(model), name, threads);
}
Server::~Server() = default;
std::string Server::address() const { return implementation_->address(); }
int Server::port() const { return implementation_->port(); }
void Server::run(bool signals) { implementation_->run(signals); }
void Server::stop() { implementation_->stop(); }

}  // namespace harmonic
