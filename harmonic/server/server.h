// A model served over HTTP.
//
//   Server server(config, load_model_folder("my-model", cpu_backend()), "my-model", threads);
//   server.run(true);  // until SIGTERM, and then until what is at work has ended
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "harmonic/eval/model_folder.h"
#include "harmonic/server/server_config.h"

namespace harmonic {

class Server {
 public:
  // Listens at once. `name` is what clients call the model where the configuration does not say. Reads
  // HARMONIC_API_KEY. Throws Error.
  Server(const ServerConfig& config, LoadedModel model, const std::string& name, int threads);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Where it listens, for people: http://127.0.0.1:8080.
  std::string address() const;
  int port() const;
  // Until stop(), or, with `signals`, until SIGTERM or SIGINT came and all is drained.
  void run(bool signals);
  // From any thread, as SIGTERM: takes nothing new, after ServerConfig::notice_seconds, and returns from
  // run() when what is at work has ended.
  void stop();

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace harmonic
