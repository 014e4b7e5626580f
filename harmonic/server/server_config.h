// The settings of a server: flags of harmonic serve, keys of its TOML file, and variables of the environment.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "harmonic/base/fields.h"

namespace harmonic {

struct ServerConfig {
  std::string host = "127.0.0.1";
  int64_t port = 8080;
  std::string unix_socket;
  std::string model_name;  // empty: the folder's
  std::string api_key_file;
  bool without_api_key = false;
  std::vector<std::string> allowed_hosts;
  std::vector<std::string> cors_origins;
  std::string access_log;

  int64_t batch = 64;
  int64_t queue = 256;
  double step_milliseconds = 0.5;
  double gather_milliseconds = 10;

  std::string sessions = "sqlite";
  int64_t session_memory_mb = 512;
  int64_t max_sessions = 1'000'000;
  int64_t max_sessions_per_key = 0;
  int64_t cache_mb = 256;
  std::string keyring;
  double token_hours = 24;
  int64_t max_state_token_bytes = 1 << 20;

  int64_t max_connections = 16384;
  int64_t max_header_bytes = 16384;
  int64_t max_body_bytes = 8 << 20;
  int64_t max_prompt_tokens = 1 << 20;
  int64_t max_tokens = 1 << 16;
  int64_t max_choices = 128;
  int64_t concurrent_per_client = 64;
  double requests_per_minute = 0;

  double idle_seconds = 75;
  double header_seconds = 10;
  double body_seconds = 60;
  double write_seconds = 30;
  double request_seconds = 600;
  double notice_seconds = 0;
  double drain_seconds = 30;

  std::vector<Field> fields();
  // Throws Error (usage) for what cannot be, among it another address than loopback without an API key.
  // `has_key`: one is set in the environment.
  void validate(bool has_key) const;
  bool on_loopback() const;
  std::chrono::steady_clock::duration longest_request() const {
    return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
        std::chrono::duration<double>(request_seconds));
  }
};

}  // namespace harmonic
