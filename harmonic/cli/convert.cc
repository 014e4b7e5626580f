// harmonic convert: a pretrained model of another program as a model folder.
#include "harmonic/convert/convert.h"

#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/cli/command.h"
#include "harmonic/tokenizer/chat_template.h"

namespace harmonic {
namespace {

void row(std::string_view name, std::string_view what) { print("{:<12}{}\n", name, what); }

class Convert : public Command {
 public:
  void declare(Options& options) override {
    options
        .add("--from", &from_,
             "a Hugging Face folder of the Llama family, a GGUF file, or a llama2.c checkpoint (legacy "
             "format)")
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
    options.add("--out", &out_, "the model folder to write, which is not there yet or empty")
        .placeholder("DIR")
        .required();
  }

  int run(const CommandContext&) override {
    namespace fs = std::filesystem;
    std::error_code ignored;
    if (fs::exists(out_, ignored) && !(fs::is_directory(out_, ignored) && fs::is_empty(out_, ignored)))
      fail_usage("--out {}: is there and not an empty folder; name one that is not there yet", out_);
    PretrainedModel pretrained = read_pretrained(from_, tokenizer_, cpu_backend());
    std::string& chat_template = pretrained.loaded.chat_template;
    if (!chat_.empty()) chat_template = chat_;
    // Throws where they do not belong together.
    if (!chat_template.empty()) ChatTemplate(chat_template, *pretrained.loaded.tokenizer);
    const Model& model = *pretrained.loaded.model;
    save_model_folder(out_, model, *pretrained.loaded.tokenizer, pretrained.loaded.chat_template);
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
    const AttentionConfig& attention = model.config().attention;
    row("state", fmt::format("{} bytes: keys and values of {} tokens", model.state_layout().bytes(),
                             attention.cached_tokens()));
    if (attention.rope.kind != "none")
      row("positions", fmt::format("{} scaling by {}", attention.rope.kind, attention.rope.factor));
    row("chat", pretrained.loaded.chat_template.empty() ? "no template that is known"
                                                        : pretrained.loaded.chat_template);
    row("written to", out_);
  }

  std::string from_, tokenizer_, chat_, out_;
};

const Registered<Convert> registered("convert", "read a pretrained model of another program");

}  // namespace
}  // namespace harmonic
