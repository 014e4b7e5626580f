// harmonic eval: bits per token and per byte of a whole text, at any lengths of context; and tasks.
#include <algorithm>
#include <cmath>
#include <optional>

#include "harmonic/base/divergence.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/base/utf8.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/model_option.h"
#include "harmonic/data/corpus_cache.h"
#include "harmonic/eval/certificate.h"
#include "harmonic/eval/context_curve.h"
#include "harmonic/eval/context_targets.h"
#include "harmonic/eval/evaluation.h"
#include "harmonic/eval/lambada.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/eval/recall.h"
#include "harmonic/train/train_config.h"

namespace harmonic {
namespace {

constexpr const char* kPassed = "passed";

// A number of JSON: null where there is none.
Json finite(double number) { return std::isfinite(number) ? Json(number) : Json(); }

class Eval : public Command {
 public:
  void declare(Options& options) override {
    model_.declare(options);
    options
        .add("--task", &task_,
             "text: bits of all of --data; lambada: the last word of each document of --data; recall: values "
             "bound at a distance, in texts that are made up")
        .placeholder("text|lambada|recall");
    const auto add = [&](std::string name, Field::Target target, std::string tasks, std::string help,
                         Measure measure = Measure::any) {
      flags_.push_back(std::make_unique<TaskFlag>(TaskFlag{name, tasks, measure}));
      if (measure == Measure::contexts) help = "with --contexts: " + help;
      return &options.add(std::move(name), target, tasks == "text" ? help : tasks + ": " + help)
                  .given(&flags_.back()->given);
    };
    add("--data", &data_, "text lambada", "files, folders or patterns")->placeholder("PATH").not_empty();
    add("--format", &format_, "text lambada", "how documents are told apart")
        ->one_of(document_format_names());
    add("--text-field", &text_field_, "text lambada", "of a JSON line");
    add("--lengths", &lengths_, "text", "tokens a window; 16K is 16,000", Measure::windows)
        ->amount()
        .at_least(1);
    add("--state", &state_, "text", "cold: zero at each window; carry: zero at each document only",
        Measure::windows)
        ->one_of({"cold", "carry"});
    add("--max-tokens", &max_tokens_, "text", "score this many only; 0 is all", Measure::windows)
        ->amount()
        .at_least(0);
    add("--contexts", &contexts_, "text",
        "bits of the same targets with so many tokens before them, whatever the borders of documents")
        ->amount()
        .at_least(1);
    add("--targets", &context_.group, "text", "adjacent targets that share a context", Measure::contexts)
        ->at_least(1);
    add("--groups", &context_.groups, "text",
        "groups of targets at most, evenly over the text; 0 is all there is room for", Measure::contexts)
        ->amount()
        .at_least(0);
    add("--room", &room_, "text",
        "lay groups where contexts of so many tokens have room, for the same targets as another evaluation's",
        Measure::contexts)
        ->amount()
        .at_least(1);
    add("--against", &against_, "text", "another model, such as a student's teacher", Measure::contexts)
        ->placeholder("DIR")
        .not_empty();
    add("--window", &window_, "text", "tokens that attention looks back, in place of the model's")
        ->at_least(1);
    add("--stretch", &stretch_, "text",
        "stretch attention's positions for each context beyond what it was made for, by what that takes",
        Measure::contexts)
        ->one_of({"none", "linear", "ntk", "yarn"});
    add("--beyond-limit", &beyond_limit_, "text", "feed attention texts longer than it was made for",
        Measure::contexts);
    add("--by-context", &by_context_, "text", "show the bits by how many tokens the model had seen",
        Measure::windows);
    add("--distances", &recall_.distances, "recall", "bytes from the value to where it is asked for")
        ->amount()
        .range(1, RecallText::kMostBytes);
    add("--pairs", &recall_.pairs, "recall", "keys bound before one is asked for; 1 is a passkey")
        ->range(1, RecallText::kMostPairs);
    add("--examples", &recall_.examples, "recall", "of each number of pairs and each distance")
        ->amount()
        .at_least(1);
    add("--seed", &seed_, "recall", "of everything that is drawn")->at_least(0);
    add("--filler", &filler_, "recall", "a text that filler is cut from, in place of made-up words")
        ->placeholder("FILE")
        .not_empty();
    options.add("--json", &json_, "write the results here too").placeholder("FILE").not_empty();
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    check_flags();
    if (!json_.empty()) AtomicFile(std::filesystem::path(json_));  // throws now if it cannot be written later
    const DataConfig settings = load_run_config({}, {}).data;  // the environment's: the cache that runs have
    ThreadPool pool(context.threads);
    LoadedModel loaded = model_.load(context.backend(), change_of(model_.path()));
    Inference inference(*loaded.model, pool);
    model_.pack(*loaded.model, inference.context());
    const std::string certificate = short_certificate(*loaded.model, model_.path(), pool);
    ReaderOptions reader;
    reader.format = document_format_of(format_);
    reader.json_field = text_field_;
    Json json = {{"model", model_.path()}, {"weights", model_.weights()}, {"certificate", certificate}};
    if (window_ > 0) json["window"] = window_;
    if (stretch_ != "none") json["stretch"] = stretch_;
    if (beyond_limit_) json["beyond_limit"] = true;
    if (task_ == "text") {
      const TokenCorpus corpus =
          load_corpus(data_, *loaded.tokenizer, pool, {reader}, {settings.cache, settings.cache_gb});
      if (contexts_.empty()) {
        json["results"] = evaluate_text(inference, corpus, pool);
      } else {
        evaluate_contexts(inference, corpus, pool, json);
      }
    } else {
      json["task"] = task_;
      json["results"] = evaluate_task(inference, *make_task(*loaded.tokenizer, reader));
    }
    print("certificate (short form): {}\n", certificate);
    bool passed = certificate == kPassed;
    if (const auto other = json.find("against_certificate"); other != json.end()) {
      print("certificate (short form) of {}: {}\n", against_, other->get<std::string>());
      passed = passed && *other == kPassed;
    }
    flush_output();  // what --json /dev/stdout writes comes after it
    if (!json_.empty()) write_file(json_, json.dump(2) + "\n");
    return passed ? 0 : 1;
  }

 private:
  // How the bits of a text are measured: over windows of it, or of the same targets by context.
  enum class Measure { any, windows, contexts };
  // A flag of some tasks only, and of some measure of a text.
  struct TaskFlag {
    std::string name, tasks;
    Measure measure = Measure::any;
    bool given = false;
  };

  // Results are told apart by these.
  static void expect_different(std::string_view flag, std::vector<int64_t> items) {
    std::sort(items.begin(), items.end());
    if (const auto twice = std::adjacent_find(items.begin(), items.end()); twice != items.end())
      fail_usage("{}: {} stands there twice", flag, *twice);
  }

  void check_flags() const {
    expect_different("--lengths", lengths_);
    expect_different("--contexts", contexts_);
    expect_different("--distances", recall_.distances);
    expect_different("--pairs", recall_.pairs);
    std::vector<std::string> tasks = kTaskNames;
    tasks.insert(tasks.begin(), "text");
    if (std::find(tasks.begin(), tasks.end(), task_) == tasks.end())
      fail_usage("unknown task \"{}\"; expected text, lambada or recall{}", task_,
                 did_you_mean(task_, tasks));
    for (const auto& flag : flags_)
      if (flag->given && flag->tasks.find(task_) == std::string::npos)
        fail_usage("{} has no meaning for --task {}", flag->name, task_);
    for (const auto& flag : flags_) {
      if (flag->given && flag->measure == Measure::contexts && contexts_.empty())
        fail_usage("{} belongs to --contexts", flag->name);
      if (flag->given && flag->measure == Measure::windows && !contexts_.empty())
        fail_usage("{} has no meaning with --contexts", flag->name);
    }
    for (const std::string& folder : {model_.path(), against_})
      if (!json_.empty() && !is_utf8(folder))
        fail_usage(
            "--json {}: would name the folder {}, and JSON has no text but UTF-8; give the folder another "
            "name",
            json_, folder);
    if (stretch_ != "none" && !against_.empty())
      fail_usage(
          "--stretch goes without --against; evaluate both apart, and harmonic curves sets them side by "
          "side");
    if (task_ != "recall" && data_.empty())
      fail_usage("--data is missing: the texts that --task {} is about: files, folders or patterns", task_);
  }

  std::unique_ptr<Task> make_task(const Tokenizer& tokenizer, const ReaderOptions& reader) const {
    if (task_ == "lambada") return std::make_unique<LambadaTask>(data_, reader, tokenizer);
    RecallOptions options = recall_;
    options.seed = static_cast<uint64_t>(seed_);
    return std::make_unique<RecallTask>(options, RecallText::with_filler_of(filler_), tokenizer);
  }

  // Positions of a context of so many tokens, where it is longer than the one that attention was made for.
  void stretch(AttentionConfig& attention, int64_t width, int64_t context) const {
    const double factor = static_cast<double>(context) / static_cast<double>(attention.context);
    if (factor <= 1) return;
    if (width <= 2)
      fail_usage("--stretch {}: takes heads wider than 2; those of {} are not", stretch_, model_.path());
    if (attention.rope.kind != "none")
      fail_usage("--stretch {}: the model's own rope_scaling = \"{}\" stretches its positions already",
                 stretch_, attention.rope.kind);
    if (stretch_ == "ntk") {  // the longest wave is as long as linear's, the shortest stays
      const auto D = static_cast<double>(width);
      attention.rope_base *= std::pow(factor, D / (D - 2));
    } else {
      attention.rope = {.kind = stretch_, .factor = factor, .context = attention.rope.context};
    }
  }

  // What is asked of the attention of the model at `path` for a context (0: one it was made for).
  std::function<void(ModelConfig&)> change_of(const std::string& path, int64_t context = 0) const {
    // Of two models one may have none.
    const bool is_alone =
        against_.empty() || !load_model_config(path == against_ ? model_.path() : against_).uses("attention");
    return [this, path, context, is_alone](ModelConfig& config) {
      if (!config.uses("attention") && is_alone) {
        if (window_ > 0) fail_usage("--window {}: {} has no attention to look back", window_, path);
        if (stretch_ != "none")
          fail_usage("--stretch {}: {} has no attention whose positions could be stretched", stretch_, path);
      }
      if (window_ > config.attention.context && config.uses("attention") && !beyond_limit_)
        fail_usage(
            "--window {}: the attention of {} was made for {} tokens; expected no more, or --contexts and "
            "--beyond-limit",
            window_, path, config.attention.context);
      if (config.uses("attention") && config.attention.window > 0 && window_ > config.attention.window)
        fail_usage("--window {}: the attention of {} looks back {} tokens; expected no more", window_, path,
                   config.attention.window);
      config.matrix.rotation = config.attention;
      if (window_ > 0) config.attention.window = window_;
      if ((beyond_limit_ || stretch_ != "none") && !contexts_.empty()) {
        // What positions are stretched from stays the context that the model was made for.
        if (config.attention.rope.context == 0) config.attention.rope.context = config.attention.context;
        if (stretch_ != "none") stretch(config.attention, config.d_model / config.attention.n_heads, context);
        config.attention.context = std::max(config.attention.context, longest_context());
      }
    };
  }

  // By context: the bits a token of this model and, where there is one, of another on the same targets, which
  // is not asked beyond its limit. Written into `json`, with which targets they are and the other's
  // certificate.
  void evaluate_contexts(Inference& inference, const TokenCorpus& corpus, ThreadPool& pool,
                         Json& json) const {
    std::optional<LoadedModel> other;
    std::optional<Inference> others;
    int64_t limit = 0;
    if (!against_.empty()) {
      other = load_model_folder(against_, inference.model().backend(), false, change_of(against_));
      if (other->tokenizer->hash() != corpus.identity().hash)
        fail("--against {}: another tokenizer than that of {}; bits a token cannot be compared", against_,
             model_.path());
      others.emplace(*other->model, pool);
      json["against"] = against_;
      json["against_certificate"] = short_certificate(*other->model, against_, pool);
      limit = load_model_config(against_).longest_text();
    }
    const int64_t own_limit = inference.model().config().longest_text();
    ContextOptions all = context_;
    all.contexts = contexts_;
    all.longest = room();
    check_contexts(corpus, all);
    for (const int64_t context : contexts_)
      if (own_limit > 0 && context > own_limit)
        fail_usage(
            "--contexts {}: attention remembers {} tokens; --beyond-limit asks it all the same, --window "
            "lets it look back so far only",
            context, own_limit);
    Json& results = json["results"] = Json::array();
    ContextTargets targets{corpus.hash(), room(), context_.group, 0};
    print("{:>10} {:>12} {:>12}", "context", "targets", "bits/token");
    print("{}\n", others ? fmt::format(" {:>12} {:>10}", "against", "difference") : "");
    for (const int64_t context : contexts_) {
      const TargetBits bits = stretch_ == "none"
                                  ? bits_at(inference, corpus, context)
                                  : bits_stretched(inference.model().backend(), corpus, context, pool);
      check_finite(bits.bits, model_.path());
      targets.groups = bits.tokens / context_.group;
      Json result = {
          {"context", context}, {"targets", bits.tokens}, {"bits_per_token", bits.bits_per_token()}};
      print("{:>10} {:>12} {:>12.4f}", context, bits.tokens, bits.bits_per_token());
      const int64_t reach = others ? others->model().config().longest_text() : 0;
      if (others && (reach == 0 || context <= reach)) {
        const TargetBits of_other = bits_at(*others, corpus, context);
        check_finite(of_other.bits, against_);
        const double theirs = of_other.bits_per_token();
        const double difference = bits.bits_per_token() / theirs - 1;
        result["against_bits_per_token"] = theirs;
        print(" {:>12.4f} {:>9.2f}%", theirs, 100 * difference);
        if (difference < 0 && (limit == 0 || context <= limit))
          warn(
              "{} beats {} by {:.2f} % with {} tokens of context, within its limit: a student that does may "
              "have seen the targets; harmonic check looks for a leak",
              model_.path(), against_, -100 * difference, context);
      }
      print("\n");
      flush_output();
      results.push_back(result);
    }
    json["targets"] = targets.json();
  }

  int64_t longest_context() const { return *std::max_element(contexts_.begin(), contexts_.end()); }
  int64_t room() const { return std::max(room_, longest_context()); }

  TargetBits bits_stretched(const Backend& backend, const TokenCorpus& corpus, int64_t context,
                            ThreadPool& pool) const {
    LoadedModel loaded = model_.load(backend, change_of(model_.path(), context));
    Inference inference(*loaded.model, pool);
    model_.pack(*loaded.model, inference.context());
    return bits_at(inference, corpus, context);
  }

  TargetBits bits_at(Inference& inference, const TokenCorpus& corpus, int64_t context) const {
    ContextOptions options = context_;
    options.contexts = {context};
    options.longest = room();
    options.show_progress = true;
    const TargetBits bits = bits_by_context(inference, corpus, options).front();
    end_progress();
    return bits;
  }

  // Of rounded matrices beside what the same text costs without rounding.
  Json evaluate_text(Inference& inference, const TokenCorpus& corpus, ThreadPool& pool) const {
    std::optional<LoadedModel> unrounded;
    std::optional<Inference> exact;
    if (model_.rounds()) {
      unrounded = model_.load(inference.model().backend(), change_of(model_.path()));
      exact.emplace(*unrounded->model, pool);
      unrounded->model->pack(exact->context());
    }
    Json results = Json::array();
    print("{:>10} {:>6} {:>12} {:>12} {:>10} {:>10}", "length", "state", "tokens", "bytes", "bits/token",
          "bits/byte");
    print("{}\n", exact ? fmt::format(" {:>10} {:>10}", "f32", "rounding") : "");
    for (int64_t length : lengths_) {
      EvaluationOptions options;
      options.length = length;
      options.state = evaluation_state_of(state_);
      options.max_tokens = max_tokens_;
      options.show_progress = true;
      const EvaluationResult result = evaluate(inference, corpus, options);
      end_progress();
      check_finite(result.bits, model_.path());
      print("{:>10} {:>6} {:>12} {:>12} {:>10.4f} {:>10.4f}", length, state_, result.tokens, result.bytes,
            result.bits_per_token(), result.bits_per_byte());
      double f32 = 0;
      if (exact) {
        f32 = evaluate(*exact, corpus, options).bits_per_byte();
        end_progress();
        print(" {:>10.4f} {:>+9.3f}%", f32, 100 * (result.bits_per_byte() / f32 - 1));
      }
      print("\n");
      if (by_context_) show_by_context(result);
      flush_output();
      results.push_back({{"length", length},
                         {"state", state_},
                         {"tokens", result.tokens},
                         {"bytes", result.bytes},
                         {"bits_per_token", result.bits_per_token()},
                         {"bits_per_byte", result.bits_per_byte()},
                         {"by_context", Json::array()},
                         {"by_phase", Json::array()}});
      if (exact) results.back()["f32_bits_per_byte"] = f32;
      for (size_t i = 0; i < result.by_context.size(); ++i)
        results.back()["by_context"].push_back(
            {{"from", int64_t{1} << i},
             {"to", int64_t{2} << i},
             {"tokens", result.by_context[i].tokens},
             {"bits_per_token", finite(result.by_context[i].bits_per_token())}});
      for (const TargetBits& phase : result.by_phase)
        results.back()["by_phase"].push_back(finite(phase.bits_per_token()));
    }
    return results;
  }

  void show_by_context(const EvaluationResult& result) const {
    print("  {:>24} {:>12} {:>10}\n", "tokens seen", "tokens", "bits/token");
    for (size_t i = 0; i < result.by_context.size(); ++i)
      print("  {:>24} {:>12} {:>10.4f}\n", fmt::format("{} to {}", int64_t{1} << i, (int64_t{2} << i) - 1),
            result.by_context[i].tokens, result.by_context[i].bits_per_token());
  }

  Json evaluate_task(Inference& inference, Task& task) const {
    TaskOptions options;
    options.show_progress = true;
    const std::vector<TaskResult> groups = run_task(inference, task, options);
    end_progress();
    Json results = Json::array();
    print("{:<20} {:>10} {:>10} {:>10} {:>10} {:>12} {:>14}\n", "group", "examples", "accuracy", "chance",
          "bits", "perplexity", "context tokens");
    for (const TaskResult& result : groups) {
      check_finite(result.bits, model_.path());
      const double chance = result.group.chance;
      print("{:<20} {:>10} {:>10.4f} {:>10} {:>10.4f} {:>12.4f} {:>14.1f}\n", result.group.name,
            result.examples, result.accuracy(), chance > 0 ? fmt::format("{:.4f}", chance) : "",
            result.bits_per_target(), result.perplexity(), result.context_per_example());
      results.push_back({{"group", result.group.name},
                         {"examples", result.examples},
                         {"accuracy", result.accuracy()},
                         {"chance", chance > 0 ? Json(chance) : Json()},
                         {"bits", result.bits_per_target()},
                         {"perplexity", finite(result.perplexity())},
                         {"context_tokens", result.context_per_example()}});
    }
    return results;
  }

  static void check_finite(double bits, const std::string& model) {
    if (!std::isfinite(bits))
      fail_diverged("{}: its losses are not finite; its weights are damaged or it has diverged", model);
  }

  // A figure of a model that looks ahead is worth nothing, so this comes first and stands beside every
  // result.
  static std::string short_certificate(Model& model, const std::string& name, ThreadPool& pool) {
    const Certificate certificate = certify_for_measurement(model, pool);
    for (const CertificateTest& test : certificate.tests)
      if (!test.passed) warn("{}: {}: {}", name, test.name, test.detail);
    return certificate.passed() ? kPassed : "failed";
  }

  std::vector<std::unique_ptr<TaskFlag>> flags_;
  std::string task_ = "text", state_ = "cold", format_ = "auto", text_field_ = "text", filler_, json_;
  std::vector<std::string> data_;
  std::vector<int64_t> lengths_ = {1024}, contexts_;
  ContextOptions context_;
  std::string against_;
  int64_t window_ = 0, room_ = 0;
  std::string stretch_ = "none";
  int64_t max_tokens_ = 0, seed_ = 1;
  bool by_context_ = false, beyond_limit_ = false;
  RecallOptions recall_;
  ModelOption model_;
};

const Registered<Eval> registered("eval", "bits per token and per byte of a text, and tasks");

}  // namespace
}  // namespace harmonic
