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
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/server/api_error.h"
#include "harmonic/server/clients.h"
#include "harmonic/server/json_text.h"
#include "harmonic/server/page.h"
#include "harmonic/server/service.h"

namespace harmonic {
namespace {

constexpr int kWorkers = 2;
constexpr size_t kLongestId = 256;

struct Route {
  const char *method, *path;  // "{}" in the path stands for a name
  RouteFunction function;
  bool pieces = false;  // its body is read in pieces
};

constexpr Route kRoutes[] = {
    {"GET", "/v1/models", route_models},
    {"GET", "/v1/models/{}", route_model},
    {"POST", "/v1/completions", route_completions},
    {"POST", "/v1/chat/completions", route_chat_completions},
    {"POST", "/v1/sessions", route_create_session},
    {"GET", "/v1/sessions", route_list_sessions},
    {"POST", "/v1/sessions/import", route_import},
    {"GET", "/v1/sessions/{}", route_show_session},
    {"DELETE", "/v1/sessions/{}", route_delete_session},
    {"POST", "/v1/sessions/{}/append", route_append},
    {"POST", "/v1/sessions/{}/generate", route_generate},
    {"POST", "/v1/sessions/{}/fork", route_fork},
    {"POST", "/v1/sessions/{}/checkpoint", route_checkpoint},
    {"POST", "/v1/sessions/{}/rewind", route_rewind},
    {"GET", "/v1/sessions/{}/export", route_export},
    {"POST", "/v1/score", route_score},
    {"POST", "/v1/score/stream", route_score_stream, true},
    {"GET", "/tokenizer_info", route_tokenizer_info},
    {"POST", "/tokenize", route_tokenize},
    {"POST", "/detokenize", route_detokenize},
};

bool may_be_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestId && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

// Whether the path is the route's; the part in the place of "{}" goes to *name.
bool matches(std::string_view pattern, std::string_view path, std::string* name) {
  const size_t hole = pattern.find("{}");
  if (hole == pattern.npos) return pattern == path;
  const std::string_view before = pattern.substr(0, hole), after = pattern.substr(hole + 2);
  if (path.size() < before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after))
    return false;
  const std::string_view found = path.substr(before.size(), path.size() - before.size() - after.size());
  if (!may_be_name(found)) return false;
  *name = found;
  return true;
}

// "localhost" of "localhost:8080", "::1" of "[::1]:8080".
std::string host_name(std::string_view host) {
  if (host.starts_with('[')) return std::string(host.substr(1, host.find(']') - 1));
  return std::string(host.substr(0, host.find(':')));
}

// The name of a special token, from the tokenizer's own file.
std::string name_of_token(const Json& tokenizer, int32_t token) {
  const auto added = tokenizer.find("added_tokens");
  if (added != tokenizer.end() && added->is_array())
    for (const Json& entry : *added)
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

std::string environment_key() {
  const char* key = std::getenv("HARMONIC_API_KEY");
  return key ? key : "";
}

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

std::unique_ptr<SessionStore> store_of(const ServerConfig& config, const Model& model,
                                       const std::string& identity) {
  if (config.sessions == "memory") return make_memory_store();
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
        keys_(config.api_key_file, environment_key()),
        limits_(config.concurrent_per_client, config.requests_per_minute),
        cache_(config.cache_mb << 20),
        identity_(identity_of(*loaded_.model)),
        sessions_(store_of(config, *loaded_.model, identity_), config.max_sessions,
                  config.sessions == "memory" ? config.session_memory_mb << 20 : 0),
        scheduler_(*loaded_.model, *loaded_.tokenizer, scheduler_options(config, threads)),
        workers_(kWorkers),
        service_{config_,    *loaded_.tokenizer,
                 scheduler_, cache_,
                 sessions_,  nullptr,
                 nullptr,    metrics_,
                 workers_,   config.model_name.empty() ? name : config.model_name,
                 identity_,  {},
                 {},         unix_seconds()} {
    if (::sodium_init() < 0) fail("libsodium cannot be used here");
    const Json tokenizer = parse_json(loaded_.tokenizer->to_json(), "the tokenizer");
    service_.end_of_text = name_of_token(tokenizer, loaded_.tokenizer->eot());
    service_.begin_of_text = name_of_token(tokenizer, loaded_.tokenizer->bos());
    if (!loaded_.chat_template.empty())
      service_.chat = &chat_.emplace(loaded_.chat_template, *loaded_.tokenizer);
    if (!config.access_log.empty() && config.access_log != "-") access_log_.emplace(config.access_log);
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
      log("no new requests from now on; those at work have {} seconds", config_.drain_seconds);
      drain();
    });
  }
  std::string address() const {
    if (!config_.unix_socket.empty()) return config_.unix_socket;
    const bool v6 = config_.host.find(':') != std::string::npos;
    return fmt::format("http://{}{}{}:{}", v6 ? "[" : "", config_.host, v6 ? "]" : "", port());
  }
  void stop() {
    http_->post([this] { drain(); });
  }

  // --- HttpHandler, on the loop's thread ---

  bool takes_pieces(const HttpRequest& head) override {
    std::string name;
    return std::any_of(std::begin(kRoutes), std::end(kRoutes), [&](const Route& route) {
      return route.pieces && head.method == route.method && matches(route.path, head.path, &name);
    });
  }

  HttpResponse refusal(int status, std::string_view why) override {
    return response_of(ApiError{status, std::string(why), "", "bad_request", 0});
  }

  void handle(std::shared_ptr<HttpExchange> exchange) override {
    try {
      dispatch(exchange);
    } catch (const ApiError& error) {
      exchange->respond(with_origin(exchange->request(), response_of(error)));
    } catch (const std::exception& error) {
      warn("internal error, please report it: {}", error.what());
      exchange->respond(response_of(ApiError{500, "internal error", "", "internal_error", 0}));
    }
  }

  std::optional<HttpResponse> refuses(const HttpRequest& head) override {
    const bool has_body = head.count("content-length") + head.count("transfer-encoding") > 0;
    if (!has_body) return {};
    try {
      check_host(head);
      check_origin(head);
      owner_of(head);
      return {};
    } catch (const ApiError& error) {
      return with_origin(head, response_of(error));
    }
  }

  void ended(const HttpRequest& request, int status, int64_t bytes, double seconds) override {
    const std::string route = route_name(request);
    metrics_.count_status(route, status);
    metrics_.request.add(seconds);
    if (config_.access_log.empty()) return;
    const std::string line =
        fmt::format(
            R"({{"time":{},"client":{},"method":{},"route":"{}","status":{},"bytes":{},"seconds":{:.6f}}})",
            json_number(static_cast<double>(unix_seconds())), json_text(request.client),
            json_text(request.method.substr(0, 16)), route, status, bytes, seconds) +
        "\n";
    if (!access_log_) {
      [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
      return;
    }
    // Off the loop: a disk may be slow.
    workers_.post([this, line] {
      try {
        const std::lock_guard lock(log_mutex_);
        access_log_->append(line);
      } catch (const Error& error) {
        warn("{}", error.what());
      }
    });
  }

 private:
  void dispatch(const std::shared_ptr<HttpExchange>& exchange) {
    const HttpRequest& request = exchange->request();
    check_host(request);
    check_origin(request);
    if (request.method == "OPTIONS") {
      exchange->respond(with_origin(request, {204, "", "", {{"Allow", "GET, POST, DELETE, OPTIONS"}}}));
      return;
    }
    const std::string_view path = request.path;
    const bool reads = request.method == "GET" || request.method == "HEAD";
    if (reads && path == "/") return exchange->respond(page_response());
    if (reads && path == "/health")
      return exchange->respond({200, "application/json", R"({"status":"ok"})", {}});
    if (reads && path == "/ready")
      return exchange->respond(draining_
                                   ? response_of(ApiError{503, "the server is going down", "", "draining", 5})
                                   : HttpResponse{200, "application/json", R"({"status":"ready"})", {}});
    Call call{exchange, owner_of(request), {}};
    if (reads && path == "/metrics") {
      workers_.post([this, exchange] {
        exchange->respond({200, "text/plain; version=0.0.4", metrics_text(), {}});
      });
      return;
    }
    const Route& route = route_of(request, &call.id);
    if (draining_) throw ApiError{503, "the server is going down", "", "draining", 5};
    const std::string client = call.owner.empty() ? request.client : call.owner;
    if (const auto refused = limits_.begin(client))
      throw ApiError{429, refused->why, "", "rate_limit_exceeded", refused->retry_after};
    call.exchange =
        std::make_shared<Counted>(exchange, cors_headers(request), [this, client] { limits_.end(client); });
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
      warn("internal error, please report it: {}", error.what());
      call.exchange->respond(response_of(ApiError{500, "internal error", "", "internal_error", 0}));
    }
  }

  void check_host(const HttpRequest& request) const {
    if (!config_.on_loopback() || !config_.unix_socket.empty()) {
      if (config_.allowed_hosts.empty()) return;
    }
    // A page of any name may be made to point here: on loopback only loopback's own names are answered.
    const std::string host = host_name(request.header("host"));
    const bool own = host == config_.host ||
                     (config_.on_loopback() && (host == "localhost" || host == "127.0.0.1" || host == "::1"));
    const bool allowed = std::find(config_.allowed_hosts.begin(), config_.allowed_hosts.end(), host) !=
                         config_.allowed_hosts.end();
    if (!own && !allowed && !(host.empty() && request.minor_version == 0))
      throw ApiError{403, "this server does not go by the name in the Host header (--allowed-hosts)", "",
                     "unknown_host", 0};
  }

  bool is_allowed_origin(std::string_view origin) const {
    return std::find(config_.cors_origins.begin(), config_.cors_origins.end(), origin) !=
           config_.cors_origins.end();
  }

  void check_origin(const HttpRequest& request) const {
    const std::string_view origin = request.header("origin");
    if (origin.empty() || is_allowed_origin(origin)) return;
    if (origin == "http://" + std::string(request.header("host")) ||
        origin == "https://" + std::string(request.header("host")))
      return;
    throw ApiError{403, "pages of this origin may not call (--cors-origins)", "", "unknown_origin", 0};
  }

  // The origin as the configuration has it: nothing of the client's goes into a header.
  std::vector<std::pair<std::string, std::string>> cors_headers(const HttpRequest& request) const {
    for (const std::string& origin : config_.cors_origins)
      if (origin == request.header("origin"))
        return {{"Access-Control-Allow-Origin", origin},
                {"Access-Control-Allow-Headers", "Authorization, Content-Type"},
                {"Access-Control-Allow-Methods", "GET, POST, DELETE"},
                {"Vary", "Origin"}};
    return {};
  }
  HttpResponse with_origin(const HttpRequest& request, HttpResponse response) const {
    for (auto& header : cors_headers(request)) response.headers.push_back(std::move(header));
    return response;
  }

  std::string owner_of(const HttpRequest& request) const {
    if (!keys_.required()) return {};
    const auto owner = keys_.owner_of(request.header("authorization"));
    if (!owner)
      throw ApiError{401, "expected one of this server's API keys as Authorization: Bearer KEY", "",
                     "invalid_api_key", 0};
    return *owner;
  }

  const Route& route_of(const HttpRequest& request, std::string* name) const {
    std::string methods;
    for (const Route& route : kRoutes) {
      if (!matches(route.path, request.path, name)) continue;
      if (request.method == route.method ||
          (request.method == "HEAD" && std::string_view(route.method) == "GET"))
        return route;
      methods += fmt::format("{}{}", methods.empty() ? "" : ", ", route.method);
    }
    if (methods.empty()) throw ApiError{404, "there is nothing at this path", "", "not_found", 0};
    throw ApiError{405, "expected the method " + methods, "", "method_not_allowed", 0};
  }

  // What the request asked for, in words of ours.
  std::string route_name(const HttpRequest& request) const {
    std::string name;
    for (const char* own : {"/", "/health", "/ready", "/metrics"})
      if (request.path == own) return own;
    for (const Route& route : kRoutes)
      if (matches(route.path, request.path, &name)) return route.path;
    return "other";
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
           gauge("harmonic_sessions", "Sessions that are kept.", sessions_.count()) +
           gauge("harmonic_sessions_memory_bytes", "Of their states in memory.",
                 sessions_.bytes_in_memory()) +
           gauge("harmonic_state_bytes", "Of the state of one text.", loaded_.model->state_layout().bytes()) +
           gauge("harmonic_resident_memory_bytes", "Memory of the process.", resident_bytes()) +
           fmt::format(
               "# HELP harmonic_build_info The program and its model.\n# TYPE harmonic_build_info "
               "gauge\nharmonic_build_info{{identity=\"{:.16}\"}} 1\n",
               service_.identity);
  }

  void drain() {
    draining_ = true;
    http_->drain(config_.drain_seconds);
  }

  // An exchange that counts as its client's until it is answered, or nobody holds it any more.
  class Counted : public HttpExchange {
   public:
    Counted(std::shared_ptr<HttpExchange> exchange, std::vector<std::pair<std::string, std::string>> headers,
            std::function<void()> ended)
        : exchange_(std::move(exchange)), headers_(std::move(headers)), ended_(std::move(ended)) {}
    ~Counted() override { end(); }
    const HttpRequest& request() const override { return exchange_->request(); }
    void respond(HttpResponse response) override {
      end();
      exchange_->respond(complete(std::move(response)));
    }
    void start_stream(HttpResponse head) override { exchange_->start_stream(complete(std::move(head))); }
    void send(std::string_view piece) override { exchange_->send(piece); }
    void end_stream() override {
      end();
      exchange_->end_stream();
    }
    void when_gone(std::function<void()> gone) override { exchange_->when_gone(std::move(gone)); }
    void next_piece(std::function<void(std::string)> take) override {
      exchange_->next_piece(std::move(take));
    }

   private:
    // Before the answer leaves: who has it may ask again.
    void end() {
      if (!over_.exchange(true)) ended_();
    }
    HttpResponse complete(HttpResponse response) const {
      response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
      return response;
    }
    const std::shared_ptr<HttpExchange> exchange_;
    const std::vector<std::pair<std::string, std::string>> headers_;
    const std::function<void()> ended_;
    std::atomic<bool> over_{false};
  };

  const ServerConfig config_;
  LoadedModel loaded_;
  ApiKeys keys_;
  ClientLimits limits_;
  Metrics metrics_;
  PrefixCache cache_;
  const std::string identity_;
  Sessions sessions_;
  std::optional<StateSeal> seal_;
  std::optional<ChatTemplate> chat_;
  std::optional<HttpServer> http_;  // before the others: exchanges that they hold use its loop
  BatchScheduler scheduler_;
  Workers workers_;
  Service service_;
  std::optional<AppendFile> access_log_;
  std::mutex log_mutex_;
  bool draining_ = false;  // of the loop's thread
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
