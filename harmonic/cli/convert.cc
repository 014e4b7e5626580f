// harmonic convert: a pretrained model of another program as a model folder, and its attention replaced.
#include "harmonic/convert/convert.h"

#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/cli/command.h"
#include "harmonic/convert/surgery.h"
#include "harmonic/tokenizer/chat_template.h"
#include "harmonic/tokenizer/tokenizer_json.h"

namespace harmonic {
namespace {

void row(std::string_view name, std::string_view what) { print("{:<12}{}\n", name, what); }

class Convert : public Command {
 public:
  void declare(Options& options) override {
    options
        .add("--from", &from_,
             "a Hugging Face folder of the Llama family, a GGUF file, a llama2.c checkpoint (legacy format), "
             "or "
             "a model folder")
        .placeholder("PATH")
        .required();
    options
        .add(
            "--tokenizer", &tokenizer_,
            "the model's tokenizer where it is not beside it: a llama2.c tokenizer (.bin), a tokenizer.json, "
            "a tokenizer.model, or a folder with one")
        .placeholder("PATH")
        .not_empty();
    options
        .add("--chat-template", &chat_,
             "how messages of a chat are written, where the model does not say it in a way that is known")
        .one_of(ChatTemplate::names());
    options
        .add("--replace", &replace_,
             "layers whose attention gives way to a state of constant size: all, or their numbers from 0, as "
             "0,1,3")
        .placeholder("all|LIST")
        .not_empty();
    const auto add = [&](const char* name, Field::Target target, const char* help) {
      return &options.add(name, target, std::string("with --replace: ") + help).given(&shapes_);
    };
    add("--form", &surgery_.form,
        "matrix: gated linear attention that starts from the projections; paper: decay cells that start anew")
        ->one_of({"matrix", "paper"});
    add("--features", &surgery_.features, "of a head's queries and keys; 0 is twice the head's width")
        ->at_least(0);
    add("--taus", &surgery_.taus, "timescale of each level in its own steps; 4,32,128 where none are given")
        ->above(0);
    add("--window", &surgery_.window, "tokens that the attention that stays looks back; 0 leaves it as it is")
        ->at_least(0);
    add("--from-scratch", &surgery_.from_scratch, "the replaced layers' projections start anew too");
    add("--seed", &seed_, "of what starts anew")->at_least(0);
    options.add("--out", &out_, "the model folder to write, which is not there yet or empty")
        .placeholder("DIR")
        .required();
  }

  int run(const CommandContext&) override {
    watch_for_interrupts();
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (is_there(out_) && !(fs::is_directory(out_, ignored) && fs::is_empty(out_, ignored)))
      fail_usage("--out {}: is there and not an empty folder; name one that is not there yet", out_);
    if (replace_.empty() && shapes_)
      fail_usage("--form, --features, --taus, --window, --from-scratch and --seed belong to --replace");
    if (surgery_.form == "paper" && (surgery_.from_scratch || surgery_.features != 0))
      fail_usage(
          "--from-scratch and --features belong to --form matrix; the paper's form always starts anew");
    if (is_model_folder(from_)) {
      if (replace_.empty()) fail_usage("--from {}: is a model folder already; --replace changes it", from_);
      if (!tokenizer_.empty())
        fail_usage("--tokenizer {}: the model folder {} has the tokenizer that belongs to it", tokenizer_,
                   from_);
      LoadedModel loaded = load_model_folder(from_, cpu_backend());
      choose_chat_template(loaded);
      check_finite(loaded.model->parameters(), from_ + "/model.safetensors");
      const Surgery surgery = operate(loaded);
      row("source", fmt::format("{}, a model folder", from_));
      report(surgery, *loaded.model);
      return 0;
    }
    PretrainedModel pretrained = read_pretrained(from_, tokenizer_, cpu_backend());
    LoadedModel& loaded = pretrained.loaded;
    choose_chat_template(loaded);
    check_kept_tokenizer(*loaded.tokenizer);
    stop_if_interrupted();
    if (replace_.empty()) {
      save_model_folder(out_, *loaded.model, *loaded.tokenizer, loaded.chat_template);
      report(pretrained);
      row("written to", out_);
    } else {
      const Surgery surgery = operate(loaded);
      report(pretrained);
      report(surgery, *loaded.model);
    }
    return 0;
  }

 private:
  static bool is_model_folder(const std::string& path) {
    namespace fs = std::filesystem;
    std::error_code ignored;
    const fs::path config = fs::path(path) / "config.json";
    if (!fs::is_regular_file(config, ignored)) return false;
    const Json json = read_json(config, 1 << 20);
    return json.is_object() && json.value("model_type", Json()) == "harmonic";
  }

  // Some vocabularies have names that a tokenizer.json cannot tell apart.
  void check_kept_tokenizer(const Tokenizer& tokenizer) const {
    const std::string source = fmt::format("{}: its tokenizer, kept as a tokenizer.json", from_);
    if (read_tokenizer_json(tokenizer.to_json(), source)->hash() != tokenizer.hash())
      fail("{}, would be another one", source);
  }

  void choose_chat_template(LoadedModel& loaded) const {
    if (!chat_.empty()) loaded.chat_template = chat_;
    // Throws where they do not belong together.
    if (!loaded.chat_template.empty()) ChatTemplate(loaded.chat_template, *loaded.tokenizer);
  }

  // Writes the changed model. Nothing is shown before: what is refused leaves no report.
  Surgery operate(const LoadedModel& loaded) {
    SurgeryOptions options = surgery_;
    options.seed = static_cast<uint64_t>(seed_);
    if (replace_ != "all" && replace_.find_first_not_of("0123456789, ") != std::string::npos)
      fail_usage("--replace {}: expected all, or layers' numbers from 0, as 0,1,3", replace_);
    if (replace_ != "all")
      set_field(Field("replace", &options.layers, "layers").at_least(0), replace_, "--replace", "--replace");
    if (replace_ != "all" && options.layers.empty())
      fail_usage("--replace \"{}\": names no layer; expected all, or layers' numbers from 0, as 0,1,3",
                 replace_);
    Surgery surgery = replace_attention(*loaded.model, options);
    stop_if_interrupted();
    save_model_folder(out_, *surgery.model, *loaded.tokenizer, loaded.chat_template);
    return surgery;
  }

  void report(const Surgery& surgery, const Model& source) const {
    const StateLayout &now = surgery.model->state_layout(), &before = source.state_layout();
    row("replaced", fmt::format("attention of {} of {} layers, by the {} form", surgery.replaced.size(),
                                source.config().n_layers, surgery_.form));
    row("parameters", fmt::format("{} kept bit for bit, {} new, {} of the source's dropped", surgery.kept,
                                  surgery.fresh, surgery.dropped));
    row("state", fmt::format("{} bytes; before, keys and values of {} tokens took {}", now.bytes(),
                             source.config().attention.cached_tokens(), before.bytes()));
    if (const int64_t limit = surgery.model->config().longest_text(); limit > 0)
      row("limit",
          fmt::format("{} tokens of a text, for the attention that stays; --window lifts it", limit));
    row("written to", out_);
  }

  void report(const PretrainedModel& pretrained) const {
    const Model& model = *pretrained.loaded.model;
    const LlamaShape& shape = pretrained.shape;
    row("source", fmt::format("{}, {}", from_, pretrained.source));
    row("layers", fmt::format("{} of attention, width {}, {} heads of {}, {} for keys and values",
                              shape.layers, shape.width, shape.heads, shape.head_width(), shape.kv_heads));
    const int64_t width = model.config().d_ffn();
    row("ffn", width == shape.ffn_width ? fmt::format("{} wide", width)
                                        : fmt::format("{} wide, and {} columns of zeros", shape.ffn_width,
                                                      width - shape.ffn_width));
    row("vocabulary", fmt::format("{} tokens; {} begins a text, {} ends it", shape.vocab_size,
                                  model.config().bos(), model.config().eot_token_id));
    row("parameters", fmt::format("{}, each of them kept", pretrained.parameters));
    const AttentionConfig& attention = model.config().attention;
    row("state", fmt::format("{} bytes: keys and values of {} tokens", model.state_layout().bytes(),
                             attention.cached_tokens()));
    if (attention.rope.kind != "none")
      row("positions", fmt::format("{} scaling by {}", attention.rope.kind, attention.rope.factor));
    row("chat", pretrained.loaded.chat_template.empty() ? "no template that is known"
                                                        : pretrained.loaded.chat_template);
  }

  std::string from_, tokenizer_, chat_, out_, replace_;
  SurgeryOptions surgery_;
  int64_t seed_ = 1;
  bool shapes_ = false;
};

const Registered<Convert> registered("convert", "read a pretrained model of another program");

}  // namespace
}  // namespace harmonic
