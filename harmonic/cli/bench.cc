// harmonic bench: what this machine does with models, beside what it could do.
#include "harmonic/base/files.h"
#include "harmonic/bench/bench_contexts.h"
#include "harmonic/bench/bench_decode.h"
#include "harmonic/bench/bench_length.h"
#include "harmonic/bench/bench_memory.h"
#include "harmonic/bench/bench_ops.h"
#include "harmonic/bench/bench_train.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/model_option.h"
#include "harmonic/model/weight_format.h"

namespace harmonic {
namespace {

const std::vector<std::string> kMixers = {"harmonic", "attention", "mamba"};

// One or several.
template <typename Precision>
void declare_precision(Options& options, Precision& precision) {
  options
      .add("--precision", &precision,
           "of matrix products; bf16 on a card and on processors with AVX-512 BF16 or AMX")
      .one_of({"f32", "bf16"});
}

class Bench : public Command {
 public:
  void declare(Options& options) override {
    declare_sizes(options);
    options.add("--json", &json_, "write the result here too").placeholder("FILE").not_empty();
  }
  int run(const CommandContext& context) override {
    if (!json_.empty()) AtomicFile(std::filesystem::path(json_));  // throws now if it cannot be written later
    const BenchReport report = measured(context);
    write_output(table_of(report));
    flush_output();  // what --json /dev/stdout writes comes after it
    if (!json_.empty()) write_file(json_, json_of(report));
    return 0;
  }

 protected:
  virtual void declare_sizes(Options& options) = 0;
  virtual BenchReport measured(const CommandContext& context) = 0;

 private:
  std::string json_;
};

class OpsCommand : public Bench {
  bool uses_device() const override { return true; }
  void declare_sizes(Options& options) override {
    options.add("--d-model", &bench_.channels, "widths; states have twice as many channels")
        .range(1, 1 << 16);
    options.add("--rows", &bench_.rows, "tokens").amount().range(1, 1 << 24);
    options.add("--vocab", &bench_.vocabulary, "tokens of the head").amount().range(2, 1 << 24);
    options.add("--runs", &bench_.runs, "of each op, at least").range(1, 1000);
    options.add("--only", &bench_.only, "only ops whose name begins so").placeholder("NAME").not_empty();
    declare_precision(options, bench_.precision);
  }
  BenchReport measured(const CommandContext& context) override {
    ThreadPool pool(context.threads);
    return bench_ops(bench_, pool, context.backend(bench_.precision));
  }
  OpsBench bench_;
};

class TrainCommand : public Bench {
  bool uses_device() const override { return true; }
  void declare_sizes(Options& options) override {
    options.add("--mixers", &bench_.mixers, "models, of the paper's forms").one_of(kMixers);
    options.add("--d-model", &bench_.widths, "widths").range(2, 1 << 16);
    options.add("--lengths", &bench_.lengths, "tokens of a text; 8K is 8,000").amount().range(1, 1 << 30);
    options.add("--vocab", &bench_.vocabulary, "tokens of the vocabulary").amount().range(2, 1 << 24);
    options.add("--tokens", &bench_.tokens_per_step, "of a step, in one text at least")
        .amount()
        .range(1, 1 << 30);
    options.add("--memory-mb", &bench_.memory_mb, "for activations").range(1, 1 << 20);
    options.add("--runs", &bench_.runs, "steps, after one that does not count").range(1, 1000);
    declare_precision(options, bench_.precisions);
  }
  BenchReport measured(const CommandContext& context) override {
    ThreadPool pool(context.threads);
    std::vector<const Backend*> backends;
    for (const std::string& precision : bench_.precisions) backends.push_back(&context.backend(precision));
    return bench_train(bench_, pool, backends);
  }
  TrainBench bench_;
};

class DecodeCommand : public Bench {
  bool uses_device() const override { return true; }
  void declare_sizes(Options& options) override {
    options.add("--mixers", &bench_.mixers, "models, of the paper's forms")
        .one_of(kMixers)
        .given(&form_given_);
    options.add("--d-model", &bench_.widths, "widths").range(2, 1 << 16).given(&form_given_);
    options.add("--layers", &bench_.layers, "of a model; 0: as many as the paper's has")
        .range(0, 1 << 10)
        .given(&form_given_);
    options
        .add("--weights", &weights_,
             "how matrices are kept: f32,bf16,int8 where none is named; with --model one of them, or as "
             "stored")
        .one_of(kWeightFormats);
    options.add("--streams", &bench_.streams, "texts that go on together").range(1, 4096).given(&form_given_);
    options.add("--vocab", &bench_.vocabulary, "tokens of the vocabulary")
        .amount()
        .range(2, 1 << 24)
        .given(&form_given_);
    options.add("--tokens", &bench_.tokens, "of each text, a run").amount().range(1, 1 << 20);
    options.add("--runs", &bench_.runs, "at least, after one that does not count").range(1, 1000);
    options
        .add("--model", &model_,
             "measure this model, a folder or a GGUF file, in place of the paper's forms: one text after "
             "--contexts")
        .placeholder("PATH")
        .not_empty();
    options
        .add("--contexts", &contexts_.contexts, "with --model: tokens before those that count; 8K is 8,000")
        .amount()
        .range(1, 1 << 24)
        .given(&contexts_given_);
    declare_precision(options, bench_.precision);
  }
  BenchReport measured(const CommandContext& context) override {
    ThreadPool pool(context.threads);
    const Backend& backend = context.backend(bench_.precision);
    if (backend.device == Device::cpu && backend.precision != Precision::f32)
      fail_usage("--precision {}: the cpu decodes with products in f32; --weights {} rounds what it reads",
                 bench_.precision, bench_.precision);
    if (model_.empty()) {
      if (contexts_given_) fail_usage("--contexts is for --model; the paper's forms decode from the start");
      if (!weights_.empty()) bench_.weights = weights_;
      return bench_decode(bench_, pool, backend);
    }
    if (form_given_)
      fail_usage(
          "--mixers, --d-model, --layers, --streams and --vocab are for the paper's forms; --model is "
          "measured as it "
          "is, "
          "on one text");
    if (weights_.size() > 1)
      fail_usage("--weights with --model: expected one format, found {}", weights_.size());
    const LoadedModel loaded = load_model_to_run(model_, backend, weights_.empty());
    contexts_.name = model_;
    if (!weights_.empty()) {
      contexts_.name += ", weights " + weights_[0];
      contexts_.format = weight_format_of(weights_[0]);
    }
    contexts_.tokens = bench_.tokens;
    contexts_.runs = bench_.runs;
    return bench_contexts(contexts_, *loaded.model, pool);
  }
  DecodeBench bench_;
  ContextBench contexts_;
  std::string model_;
  std::vector<std::string> weights_;
  bool form_given_ = false, contexts_given_ = false;
};

class LengthCommand : public Bench {
  void declare_sizes(Options& options) override {
    options.add("--mixer", &bench_.mixer, "model, of the paper's forms").one_of(kMixers);
    options.add("--d-model", &bench_.d_model, "width").range(2, 1 << 16);
    options.add("--vocab", &bench_.vocabulary, "tokens of the vocabulary").amount().range(2, 1 << 24);
    options.add("--lengths", &bench_.lengths, "tokens of a text; 64K is 64,000").amount().range(1, 1 << 30);
    options.add("--memory-mb", &bench_.memory_mb, "for activations of a training step").range(1, 1 << 20);
    options.add("--stream", &bench_.stream, "tokens of a stream before its far blocks; 0 leaves it out")
        .amount()
        .range(0, 1e15);
    options.add("--runs", &bench_.runs, "of each, after one that does not count").range(1, 1000);
  }
  BenchReport measured(const CommandContext& context) override {
    ThreadPool pool(context.threads);
    return bench_length(bench_, pool);
  }
  LengthBench bench_;
};

class MemoryCommand : public Bench {
  void declare_sizes(Options& options) override {
    options.add("--mixer", &bench_.mixer, "model, of the paper's forms").one_of(kMixers);
    options.add("--cases", &bench_.cases, "steps: TOKENS:VOCABULARY:D_MODEL").not_empty();
    options.add("--memory-mb", &bench_.memory_mb, "for activations").range(1, 1 << 20);
  }
  BenchReport measured(const CommandContext& context) override {
    bench_.threads = context.threads;
    return bench_memory(bench_);
  }
  MemoryBench bench_;
};

const Registered<OpsCommand> ops("bench ops", "measure single ops beside the machine's peaks");
const Registered<TrainCommand> train("bench train", "measure training steps");
const Registered<DecodeCommand> decode("bench decode", "measure decoding, one stream and many");
const Registered<LengthCommand> length("bench length",
                                       "measure a token's time against the length of its text");
const Registered<MemoryCommand> memory("bench memory",
                                       "measure a training step's peak memory against its length");

}  // namespace
}  // namespace harmonic
