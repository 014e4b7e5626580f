// harmonic generate: text from a model, as it comes.
#include <unistd.h>

#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/standard_input.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/runtime/sampler.h"
#include "harmonic/runtime/text_stream.h"
#include "harmonic/tokenizer/utf8_stream.h"

namespace harmonic {
namespace {

class Generate : public Command {
 public:
  void declare(Options& options) override {
    options.add("--model", &model_, "model folder").placeholder("DIR").required();
    options.add("--prompt", &prompt_, "text to go on from").placeholder("TEXT").given(&has_prompt_);
    options.add("--prompt-file", &prompt_file_, "a file with the text to go on from; - is standard input")
        .placeholder("FILE");
    options.add("--max-tokens", &max_tokens_, "tokens to write at most").amount().at_least(0);
    options.add("--temperature", &sampling_.temperature, "0 always takes the likeliest token").range(0, 100);
    options.add("--top-k", &sampling_.top_k, "keep the k likeliest tokens; 0 keeps all").at_least(0);
    options.add("--top-p", &sampling_.top_p, "keep the likeliest tokens that reach this probability")
        .range(0, 1);
    options.add("--min-p", &sampling_.min_p, "drop tokens below this share of the likeliest one").range(0, 1);
    options.add("--seed", &seed_, "of the choices: the same seed gives the same text").at_least(0);
    options.add("--ignore-end", &ignore_end_, "go on after the end of a document");
    options.add("--state-in", &state_in_, "go on from a saved state").placeholder("FILE");
    options.add("--state-out", &state_out_, "save the state after the text").placeholder("FILE");
  }

  int run(const CommandContext& context) override {
    if (has_prompt_ && !prompt_file_.empty()) fail_usage("--prompt and --prompt-file: give one of the two");
    ThreadPool pool(context.threads);
    const LoadedModel loaded = load_model_folder(model_, cpu_backend());
    Inference inference(*loaded.model, pool);
    loaded.model->pack(inference.context());
    const Tokenizer& tokenizer = *loaded.tokenizer;
    TextStream stream(inference, tokenizer.eot());
    if (!state_in_.empty()) stream.load(state_in_);
    const std::string prompt = prompt_file_.empty()  ? prompt_
                               : prompt_file_ == "-" ? read_standard_input()
                                                     : read_file(prompt_file_);
    stream.append(tokenizer.encode(prompt));
    write_output(prompt);
    flush_output();

    sampling_.seed = static_cast<uint64_t>(seed_);
    Sampler sampler(sampling_);
    Utf8Stream characters(Utf8Stream::Invalid::replace);
    for (int64_t i = 0; i < max_tokens_ && !interrupted(); ++i) {
      const int32_t token = sampler.sample(stream.next_logits(), stream.length());
      if (token == tokenizer.eot() && !ignore_end_) break;
      if (token == tokenizer.eot()) {
        stream.restart();
        continue;
      }
      stream.append({token});
      write_output(characters.push(tokenizer.bytes_of(token)));
      flush_output();
    }
    write_output(characters.flush());
    write_output("\n");
    if (!state_out_.empty()) stream.save(state_out_);
    return 0;
  }

 private:
  std::string model_, prompt_, prompt_file_, state_in_, state_out_;
  int64_t max_tokens_ = 256, seed_ = 1;
  bool has_prompt_ = false, ignore_end_ = false;
  SamplingOptions sampling_;
};

const Registered<Generate> registered("generate", "write text with a model");

}  // namespace
}  // namespace harmonic
