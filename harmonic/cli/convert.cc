// harmonic convert: a pretrained model of another program as a model folder.
#include "harmonic/convert/convert.h"

#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/cli/command.h"

namespace harmonic {
namespace {

void row(std::string_view name, std::string_view what) { print("{:<12}{}\n", name, what); }

class Convert : public Command {
 public:
  void declare(Options& options) override {
    options
        .add("--from", &from_,
             "a Hugging Face folder of the Llama family, or a llama2.c checkpoint (legacy format)")
        .placeholder("PATH")
        .required();
    options
        .add(
            "--tokenizer", &tokenizer_,
            "the model's tokenizer where it is not beside it: a llama2.c tokenizer (.bin), a tokenizer.json, "
            "a tokenizer.model, or a folder with one")
        .placeholder("PATH")
        .not_empty();
    options.add("--out", &out_, "the model folder to write, which is not there yet or empty")
        .placeholder("DIR")
        .required();
  }

  int run(const CommandContext&) override {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (fs::exists(out_, ignored) && !(fs::is_directory(out_, ignored) && fs::is_empty(out_, ignored)))
      fail_usage("--out {}: is there and not an empty folder; name one that is not there yet", out_);
    const PretrainedModel pretrained = read_pretrained(from_, tokenizer_, cpu_backend());
    const Model& model = *pretrained.loaded.model;
    save_model_folder(out_, model, *pretrained.loaded.tokenizer);
    report(pretrained, model);
    return 0;
  }

 private:
  void report(const PretrainedModel& pretrained, const Model& model) const {
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
    row("state",
        fmt::format("{} bytes: keys and values of {} tokens", model.state_layout().bytes(), shape.context));
    row("written to", out_);
  }

  std::string from_, tokenizer_, out_;
};

const Registered<Convert> registered("convert", "read a pretrained model of another program");

}  // namespace
}  // namespace harmonic
