// harmonic generate: text from a model, as it comes.
#include <fmt/ranges.h>

#include <optional>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/model_option.h"
#include "harmonic/cli/standard_input.h"
#include "harmonic/data/text_file.h"
#include "harmonic/runtime/batch_generator.h"
#include "harmonic/runtime/sampler.h"
#include "harmonic/runtime/text_stream.h"
#include "harmonic/tokenizer/chat_template.h"
#include "harmonic/tokenizer/parallel_encode.h"
#include "harmonic/tokenizer/utf8_stream.h"

namespace harmonic {
namespace {

class Generate : public Command {
 public:
  void declare(Options& options) override {
    model_.declare(options);
    options.add("INPUT", &input_, "-: the prompt comes from standard input").placeholder("-");
    options.add("--prompt", &prompt_, "text to go on from").placeholder("TEXT").given(&has_prompt_);
    options.add("--prompt-file", &prompt_file_, "a file with the text to go on from; - is standard input")
        .placeholder("FILE")
        .not_empty();
    options.add(
        "--chat", &chat_,
        "the prompt is a message to a model that was trained to chat, and its answer is written; with "
        "--state-in the next message of the chat that was saved");
    options.add("--system", &system_, "with --chat: what the model is told before the first message")
        .placeholder("TEXT")
        .given(&has_system_);
    options
        .add("--count", &count_,
             "above 1: so many texts at once, each by itself and followed by a zero byte, as --data takes "
             "them")
        .at_least(1);
    options.add("--max-tokens", &max_tokens_, "tokens to write at most").amount().at_least(0);
    options.add("--temperature", &sampling_.temperature, "0 always takes the likeliest token").range(0, 100);
    options.add("--top-k", &sampling_.top_k, "keep the k likeliest tokens; 0 keeps all").at_least(0);
    options.add("--top-p", &sampling_.top_p, "keep the likeliest tokens that reach this probability")
        .range(0, 1);
    options.add("--min-p", &sampling_.min_p, "drop tokens below this share of the likeliest one").range(0, 1);
    options.add("--seed", &seed_, "of the choices: the same seed gives the same text").at_least(0);
    options.add("--ignore-end", &ignore_end_, "begin another document where the model ends one");
    options.add("--state-in", &state_in_, "go on from a saved state").placeholder("FILE").not_empty();
    options
        .add(
            "--state-out", &state_out_,
            "save the state after the text, or, where the model ended it, that of a new document. A "
            "character "
            "that the text ends within is saved too, and written by the run that goes on from there, so that "
            "the texts of both are that of one longer run; the line break after each is no part of them")
        .placeholder("FILE")
        .not_empty();
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    check_usage();
    watch_for_interrupts();
    ThreadPool pool(context.threads);
    const LoadedModel loaded = model_.load(context.backend());
    Inference inference(*loaded.model, pool);
    model_.pack(*loaded.model, inference.context());
    const Tokenizer& tokenizer = *loaded.tokenizer;
    const std::optional<ChatTemplate> chat = chat_template(loaded);
    if (count_ > 1) return write_many(inference, tokenizer);
    // A chat begins as its template says, with no other token before it.
    const bool begins_chat = chat && state_in_.empty();
    std::string prompt = begins_chat ? read_prompt() : std::string();
    const std::vector<int32_t> opening =
        begins_chat ? chat->begin(has_system_ ? std::optional(system_) : std::nullopt, prompt)
                    : std::vector<int32_t>{tokenizer.bos()};
    TextStream stream(inference, opening.front());
    // The prompt goes the same way as what follows, since a character may begin in it and end after it; and
    // one may have begun in the text before.
    Utf8Stream characters;
    if (!state_in_.empty()) characters.push(stream.load(state_in_));
    if (!state_out_.empty()) AtomicFile(std::filesystem::path(state_out_));  // throws now if it cannot later

    if (!begins_chat) prompt = read_prompt();
    if (chat) {
      append(stream,
             begins_chat ? std::vector<int32_t>(opening.begin() + 1, opening.end()) : chat->next(prompt));
      write(stream, tokenizer, chat->end_of_answer(), characters);
    } else {
      write_output(characters.push(prompt));
      flush_output();
      append(stream, encode_in_parallel(tokenizer, prompt, pool, !stream.at_beginning()));
      write(stream, tokenizer, tokenizer.eot(), characters);
    }
    if (state_out_.empty()) write_output(characters.flush());
    write_output("\n");
    flush_output();
    if (!state_out_.empty()) stream.save(state_out_, characters.held());
    return interrupted() ? 130 : 0;
  }

 private:
  int write_many(Inference& inference, const Tokenizer& tokenizer) const {
    BatchGeneratorOptions options;
    options.count = count_;
    options.max_tokens = max_tokens_;
    options.sampling = sampling_;
    options.sampling.seed = static_cast<uint64_t>(seed_);
    int64_t written = 0;
    generate_texts(inference, tokenizer, read_prompt(), options, [&](const std::string& text) {
      write_output(text);
      write_output(std::string_view("\0", 1));
      progress(fmt::format("{} of {} texts", ++written, count_));
    });
    end_progress();
    flush_output();
    return 0;
  }

  void check_usage() {
    if (count_ > 1 && (!state_in_.empty() || !state_out_.empty() || ignore_end_ || chat_))
      fail_usage("--count {}: --state-in, --state-out, --ignore-end and --chat are for one text", count_);
    if (!input_.empty() && input_ != "-")
      fail_usage("unexpected argument \"{}\"; a prompt is given as --prompt \"{}\"", input_, input_);
    if ((input_ == "-") + has_prompt_ + !prompt_file_.empty() > 1)
      fail_usage("--prompt, --prompt-file and -: give one of them");
    if (input_ == "-") prompt_file_ = "-";
    if (has_system_ && !chat_) fail_usage("--system: takes --chat");
    if (has_system_ && !state_in_.empty())
      fail_usage("--system: stands before the first message; the chat of --state-in has begun");
    if (chat_ && ignore_end_) fail_usage("--ignore-end: an answer has one end; leave it out with --chat");
  }

  std::optional<ChatTemplate> chat_template(const LoadedModel& loaded) const {
    if (!chat_) return {};
    if (loaded.chat_template.empty())
      fail(
          "{}: this model has no chat template; one that was trained to chat gets one by harmonic convert "
          "--chat-template NAME ({})",
          model_.path(), fmt::join(ChatTemplate::names(), ", "));
    return ChatTemplate(loaded.chat_template, *loaded.tokenizer);
  }

  std::string read_prompt() const {
    if (prompt_file_.empty()) return prompt_;
    return prompt_file_ == "-" ? read_standard_input() : read_text(prompt_file_);
  }

  // In pieces, so that a long prompt can be interrupted. The state of a part of it is of no use: none is
  // saved.
  static void append(TextStream& stream, const std::vector<int32_t>& tokens) {
    for (auto at = tokens.begin(); at != tokens.end();) {
      stop_if_interrupted();
      const auto end = at + std::min<std::ptrdiff_t>(tokens.end() - at, Inference::kRowsPerCall);
      stream.append({at, end});
      at = end;
    }
  }

  // Writes until the model ends the text with `end`.
  void write(TextStream& stream, const Tokenizer& tokenizer, int32_t end, Utf8Stream& characters) const {
    SamplingOptions options = sampling_;
    options.seed = static_cast<uint64_t>(seed_);
    Sampler sampler(options);
    for (int64_t i = 0; i < max_tokens_ && !interrupted(); ++i) {
      if (stream.full()) {
        warn("the text fills the model's context (attention.context): no more can follow");
        return;
      }
      const int32_t token = sampler.sample(stream.next_logits(), stream.length());
      if (chat_ && (token == end || token == tokenizer.eot())) {
        // The next message closes the turn, whether the model ended it or --max-tokens did.
        write_output(characters.flush());
        return;
      }
      if (token == end) {
        // A state that is saved now must not end the same text again.
        stream.restart();
        write_output(characters.flush());
        if (!ignore_end_) return;
        write_output("\n\n");
      } else {
        write_output(characters.push(stream.at_beginning() ? tokenizer.first_bytes_of(token)
                                                           : tokenizer.bytes_of(token)));
        stream.append({token});
      }
      flush_output();
    }
  }

  std::string input_, prompt_, prompt_file_, system_, state_in_, state_out_;
  int64_t max_tokens_ = 256, seed_ = 1, count_ = 1;
  bool has_prompt_ = false, has_system_ = false, ignore_end_ = false, chat_ = false;
  SamplingOptions sampling_;
  ModelOption model_;
};

const Registered<Generate> registered("generate", "write text with a model");

}  // namespace
}  // namespace harmonic
