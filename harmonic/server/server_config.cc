#include "harmonic/server/server_config.h"

#include <arpa/inet.h>

#include "harmonic/base/error.h"
#include "harmonic/runtime/redis_connection.h"

namespace harmonic {
namespace {

bool is_address(const std::string& host) {
  in6_addr address;
  return ::inet_pton(AF_INET, host.c_str(), &address) == 1 ||
         ::inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), &address) == 1;
}

}  // namespace

std::vector<Field> ServerConfig::fields() {
  constexpr double kLargest = 1e15;
  const auto count = [](const char* key, int64_t* target, const char* help) {
    return Field(key, target, help).range(1, kLargest);
  };
  const auto seconds = [](const char* key, double* target, const char* help) {
    return Field(key, target, help).above(0, 1e6);
  };
  return {
      Field("host", &host, "the address to listen on; another than loopback needs an API key"),
      Field("port", &port, "0 takes one that is free, and says which").range(0, 65535),
      Field("unix_socket", &unix_socket, "a socket file to listen on, in place of host and port"),
      Field("model_name", &model_name, "what clients call the model; the folder's name when empty"),
      Field("api_key_file", &api_key_file,
            "a file with an API key a line; HARMONIC_API_KEY in the environment is one more"),
      Field("without_api_key", &without_api_key, "serve whoever comes, on any address"),
      Field("allowed_hosts", &allowed_hosts,
            "names that the Host header may have besides the address's own; on loopback others are refused"),
      Field("cors_origins", &cors_origins, "origins whose pages may call; none by default"),
      Field("access_log", &access_log, "a file for a JSON line a request; - is standard error"),
      count("batch", &batch, "texts at work at once"),
      Field("queue", &queue,
            "texts that may wait for a place in the batch; more are refused with 503; one client's fill at "
            "most "
            "three quarters of it")
          .range(0, 1e6),
      Field("step_milliseconds", &step_milliseconds,
            "about how long a step of reading prompts may take while nobody writes, and whoever comes waits; "
            "while others write it takes no longer than they do")
          .range(0.1, 10'000),
      Field("gather_milliseconds", &gather_milliseconds,
            "tokens of a stream leave together where they come within so long; the first leaves at once; 0 "
            "sends each by itself")
          .range(0, 1000),
      Field(
          "sessions", &sessions,
          "where sessions are kept: sqlite:FILE; sqlite, a file of the model's own in XDG_STATE_HOME or "
          "~/.local/state; redis://HOST:PORT or redis:SOCKET_FILE, which servers may share; or memory, until "
          "the end of the program"),
      Field(
          "session_memory_mb", &session_memory_mb,
          "of sessions' states in memory: before a store, those used last; without one, all that may be, of "
          "each API key an equal share")
          .range(1, 1e7),
      count("max_sessions", &max_sessions, "sessions kept, of all clients together"),
      Field("max_sessions_per_key", &max_sessions_per_key,
            "sessions kept of one API key; 0 is an equal share of them for each")
          .range(0, kLargest),
      Field("cache_mb", &cache_mb, "states of prompts' beginnings that are kept; 0 keeps none").range(0, 1e7),
      Field("keyring", &keyring, "a file of mode 0600 with keys for state tokens; without it there are none"),
      Field("token_hours", &token_hours, "how long a state token is good for").above(0, 1e6),
      count("max_state_token_bytes", &max_state_token_bytes, "larger states are not given out as tokens"),
      count("max_connections", &max_connections, "open at once"),
      Field("max_header_bytes", &max_header_bytes, "of a request's head").range(256, 1e6),
      Field("max_body_bytes", &max_body_bytes, "of a request's body").range(256, 1e10),
      count("max_prompt_tokens", &max_prompt_tokens, "of a request's prompts together"),
      count("max_tokens", &max_tokens, "that a text may ask for"),
      count("max_choices", &max_choices, "prompts times n of a request"),
      count("concurrent_per_client", &concurrent_per_client,
            "requests at work of one API key, or of one address where there are none"),
      Field("requests_per_minute", &requests_per_minute, "of one client; 0 is any number").range(0, 1e9),
      seconds("idle_seconds", &idle_seconds, "until a connection without a request is closed"),
      seconds("header_seconds", &header_seconds, "for a request's head to come"),
      seconds("body_seconds", &body_seconds, "for its body"),
      seconds("write_seconds", &write_seconds, "for an answer to be taken"),
      seconds("request_seconds", &request_seconds, "for a request as a whole; then its text is cut"),
      Field(
          "notice_seconds", &notice_seconds,
          "after SIGTERM, how long /ready says 503 while all else is still taken: for a load balancer to see")
          .range(0, 1e6),
      seconds("drain_seconds", &drain_seconds, "that requests at work have to end after SIGTERM"),
  };
}

bool ServerConfig::on_loopback() const {
  return !unix_socket.empty() || host.starts_with("127.") || host == "::1";
}

void ServerConfig::validate(bool has_key) const {
  ServerConfig copy = *this;
  check_fields(copy.fields(), "");
  if (unix_socket.empty() && !is_address(host))
    fail_usage("--host {}: expected an address such as 127.0.0.1 or ::1", host);
  if (!on_loopback() && api_key_file.empty() && !has_key && !without_api_key)
    fail_usage(
        "--host {}: other machines can reach this address, and no API key is set; give --api-key-file FILE "
        "or "
        "HARMONIC_API_KEY, or say --without-api-key",
        host);
  if (sessions.starts_with("redis:")) {
    RedisOptions::of(sessions);
    return;
  }
  if (sessions != "memory" && sessions != "sqlite" &&
      !(sessions.starts_with("sqlite:") && sessions.size() > 7))
    fail_usage("--sessions {}: expected memory, sqlite, sqlite:FILE or redis://HOST:PORT", sessions);
}

}  // namespace harmonic
