// The load of scripts/bench_serve.sh: one part of it a run, each a row or two of a Markdown table.
#include <sys/resource.h>

#include <CLI/CLI.hpp>

#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/parts.h"
#include "harmonic/bench/bench_model.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/tokenizer/bpe.h"

namespace harmonic {

namespace {

// The bytes, then letters that stand for pairs, and pairs with a third.
std::unique_ptr<Tokenizer> make_tokenizer_of(int64_t vocabulary) {
  BpeVocabulary made;
  for (int byte = 0; byte < 256; ++byte) made.tokens.emplace_back(1, static_cast<char>(byte));
  const auto merged = vocabulary - 1;
  for (int32_t left = '!'; static_cast<int64_t>(made.tokens.size()) < merged;
       left = left == '~' ? 256 : left + 1)
    for (int32_t right = '!'; right <= '~' && static_cast<int64_t>(made.tokens.size()) < merged; ++right) {
      made.merges.push_back({left, right, static_cast<int32_t>(made.tokens.size())});
      made.tokens.push_back(made.tokens[static_cast<size_t>(left)] + static_cast<char>(right));
    }
  made.eot = static_cast<int32_t>(made.tokens.size());
  made.tokens.emplace_back("<|endoftext|>");
  made.special.assign(made.tokens.size(), false);
  made.special.back() = true;
  return make_bpe_tokenizer(std::move(made), "the vocabulary");
}

}  // namespace

void make_random_model(const std::string& folder, int64_t d_model, int64_t vocabulary) {
  const auto tokenizer = vocabulary == 256 ? make_byte_tokenizer() : make_tokenizer_of(vocabulary);
  ModelConfig config = bench_config("harmonic", d_model, vocabulary, 0);
  take_vocabulary(config, *tokenizer);
  Model model(config, cpu_backend(), false);
  model.parameters().initialise(1);
  save_model_folder(folder, model, *tokenizer);
}

}  // namespace harmonic

int main(int count, char** arguments) {
  using namespace harmonic;
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  CLI::App app("puts a running harmonic serve under load; scripts/bench_serve.sh runs all of it");
  app.require_subcommand(1);
  LoadOptions options;
  SameOptions same;
  int64_t connections = 10'000, streams = 500, drips = 5'000, together = 64, tokens = 500, prompt = 100'000,
          sessions = 1'000'000, in_file = 100'000, files = 1'000, d_model = 256, vocabulary = 256;
  std::string folder = ".";
  const auto part = [&](const char* name, const char* help, std::function<void()> run) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("--port", options.port, "of the server, on 127.0.0.1");
    command->add_option("--pid", options.pid, "the server's process");
    command->add_option("--model", options.model, "its folder");
    command->add_option("--threads", options.threads, "of the model, in this process");
    command->add_option("--seconds", options.seconds, "about how long each measurement takes");
    command->add_flag("!--not-judged", options.judged, "show figures and hold them against nothing");
    command->callback(std::move(run));
    return command;
  };
  CLI::App* command = part("connections", "many connections and streams at once",
                           [&] { run_connections(options, connections, streams); });
  command->add_option("--connections", connections);
  command->add_option("--streams", streams);
  part("drip", "clients that send a byte a second", [&] {
    run_drip(options, drips);
  })->add_option("--clients", drips);
  command = part("throughput", "streams against the same texts without HTTP",
                 [&] { run_throughput(options, together, tokens); });
  command->add_option("--streams", together);
  command->add_option("--tokens", tokens);
  part("first-token", "a short prompt beside a long one", [&] {
    run_first_token(options, prompt);
  })->add_option("--prompt", prompt, "tokens of the long one");
  command = part("same", "the same answers, to the byte", [&] { run_same(options, same); });
  command
      ->add_option("--file", same.file, "the answers' digests: written where it is not there, else compared")
      ->required();
  command->add_option("--what", same.what, "in which circumstances, for the table");
  command->add_option("--requests", same.requests);
  command->add_option("--others", same.others, "streams at work meanwhile");
  command->add_option("--first-port", same.first_port,
                      "a server that gives state tokens of the first halves");
  command = part("sessions", "very many sessions, in this process",
                 [&] { run_sessions(options, sessions, in_file, folder); });
  command->add_option("--sessions", sessions, "in memory");
  command->add_option("--in-file", in_file, "in SQLite");
  command->add_option("--folder", folder, "for the file");
  part("odd-files", "files of all kinds packed and unpacked, in this process", [&] {
    run_odd_files(options, files);
  })->add_option("--files", files);
  part("soak", "everything at once for a while", [&] { run_soak(options); });
  command = part("model", "write a model of the paper's plain form with random weights",
                 [&] { make_random_model(options.model, d_model, vocabulary); });
  command->add_option("--d-model", d_model);
  command->add_option("--vocabulary", vocabulary, "256: bytes")->check(CLI::Range(256, 100'000));
  try {
    app.parse(count, arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "serve_load: error: %s\n", error.what());
    return 1;
  }
  return 0;
}
