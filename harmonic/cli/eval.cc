// harmonic eval: bits per token and per byte of a whole text, at any lengths of context.
#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/data/corpus_cache.h"
#include "harmonic/eval/certificate.h"
#include "harmonic/eval/evaluation.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/train/train_config.h"

namespace harmonic {
namespace {

class Eval : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder").placeholder("DIR").required();
    options.add("--data", &data_, "texts: files, folders or patterns").placeholder("PATH").required();
    options.add("--format", &format_, "how documents are told apart")
        .one_of({"auto", "text", "jsonl", "nul", "blank", "shards"});
    options.add("--text-field", &text_field_, "of a JSON line");
    options.add("--lengths", &lengths_, "tokens a window; 16K is 16,000").amount().at_least(1);
    options.add("--state", &state_, "cold: zero at each window; carry: zero at each document only")
        .one_of({"cold", "carry"});
    options.add("--max-tokens", &max_tokens_, "score this many only; 0 is all").amount().at_least(0);
    options.add("--json", &json_, "write the results here too").placeholder("FILE").not_empty();
  }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    if (!json_.empty()) AtomicFile(std::filesystem::path(json_));  // throws now if it cannot be written later
    const DataConfig settings = load_run_config({}, {}).data;  // the environment's: the cache that runs have
    ThreadPool pool(context.threads);
    const LoadedModel loaded = load_model_folder(model_, cpu_backend());
    const std::string certificate = short_certificate(*loaded.model, pool);
    Inference inference(*loaded.model, pool);
    PrepareOptions prepare;
    prepare.reader.format = document_format_of(format_);
    prepare.reader.json_field = text_field_;
    const TokenCorpus corpus =
        load_corpus(data_, *loaded.tokenizer, pool, prepare, {settings.cache, settings.cache_gb});
    Json results = Json::array();
    print("{:>10} {:>6} {:>12} {:>12} {:>10} {:>10}\n", "length", "state", "tokens", "bytes", "bits/token",
          "bits/byte");
    for (int64_t length : lengths_) {
      EvaluationOptions options;
      options.length = length;
      options.state = evaluation_state_of(state_);
      options.max_tokens = max_tokens_;
      options.show_progress = true;
      const EvaluationResult result = evaluate(inference, corpus, options);
      end_progress();
      if (!std::isfinite(result.bits))
        fail("{}: its losses are not finite; its weights are damaged or it has diverged", model_);
      print("{:>10} {:>6} {:>12} {:>12} {:>10.4f} {:>10.4f}\n", length, state_, result.tokens, result.bytes,
            result.bits_per_token(), result.bits_per_byte());
      flush_output();
      results.push_back({{"length", length},
                         {"state", state_},
                         {"tokens", result.tokens},
                         {"bytes", result.bytes},
                         {"bits_per_token", result.bits_per_token()},
                         {"bits_per_byte", result.bits_per_byte()}});
    }
    print("certificate (short form): {}\n", certificate);
    flush_output();  // what --json /dev/stdout writes comes after it
    if (!json_.empty())
      write_file(json_,
                 Json{{"model", model_}, {"certificate", certificate}, {"results", results}}.dump(2) + "\n");
    return certificate == "passed" ? 0 : 1;
  }

 private:
  // A figure of a model that looks ahead is worth nothing, so this comes first and stands beside every
  // result.
  std::string short_certificate(Model& model, ThreadPool& pool) const {
    const Certificate certificate = certify_for_measurement(model, pool);
    for (const CertificateTest& test : certificate.tests)
      if (!test.passed) warn("{}: {}: {}", model_, test.name, test.detail);
    return certificate.passed() ? "passed" : "failed";
  }

  std::string model_, state_ = "cold", format_ = "auto", text_field_ = "text", json_;
  std::vector<std::string> data_;
  std::vector<int64_t> lengths_ = {1024};
  int64_t max_tokens_ = 0;
};

const Registered<Eval> registered("eval", "bits per token and per byte of a text");

}  // namespace
}  // namespace harmonic
