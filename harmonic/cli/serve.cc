// harmonic serve: a model over HTTP.
#include <filesystem>

#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/model_option.h"
#include "harmonic/server/server.h"

namespace harmonic {
namespace {

class Serve : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder, or a GGUF file of the Llama family")
        .placeholder("PATH")
        .required();
    options.add_service_settings(config_.fields(), "serve");
  }

  int run(const CommandContext& context) override {
    const std::filesystem::path folder = std::filesystem::absolute(model_).lexically_normal();
    const std::string name = folder.has_filename() ? folder.filename() : folder.parent_path().filename();
    Server server(config_, load_model_to_run(model_, cpu_backend()), name, context.threads);
    log("{} at {}; Ctrl-C ends it", model_, server.address());
    server.run(true);
    return 0;
  }

 private:
  std::string model_;
  ServerConfig config_;
};

const Registered<Serve> registered("serve", "answer requests over HTTP, as OpenAI's servers do");

}  // namespace
}  // namespace harmonic
