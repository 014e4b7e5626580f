// harmonic data prepare | info.
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/data/corpus_preparation.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {
namespace {

void show(const TokenCorpus& corpus) {
  print("{:<20}{}\n{:<20}{}\n{:<20}{}\n{:<20}{:.3f}\n{:<20}{}\n{:<20}{}\n", "tokens", corpus.tokens(),
        "documents", corpus.documents(), "bytes of text", corpus.source_bytes(), "bytes a token",
        corpus.bytes_per_token(), "vocabulary", corpus.identity().vocab_size, "tokenizer",
        corpus.identity().hash);
}

class Prepare : public Command {
 public:
  void declare(Options& options) override {
    options.add("--data", &data_, "texts: files, folders, patterns, or - for standard input")
        .placeholder("PATH")
        .required();
    options.add("--tokenizer", &tokenizer_, "\"bytes\", a tokenizer.json, or a folder with one")
        .placeholder("PATH");
    options.add("--format", &format_, "how documents are told apart")
        .one_of({"auto", "text", "jsonl", "nul", "blank"});
    options.add("--text-field", &text_field_, "of a JSON line");
    options.add("--out", &out_, "where the token shards are written").placeholder("DIR").required();
  }
  int run(const CommandContext& context) override {
    watch_for_interrupts();
    ThreadPool pool(context.threads);
    PrepareOptions options;
    options.reader.format = document_format_of(format_);
    options.reader.json_field = text_field_;
    prepare_shards(data_, *load_tokenizer(tokenizer_), out_, pool, options);
    show(open_prepared_folder(out_));
    return 0;
  }

 private:
  std::vector<std::string> data_;
  std::string tokenizer_ = "bytes", format_ = "auto", text_field_ = "text", out_;
};

class DataInfo : public Command {
 public:
  void declare(Options& options) override {
    options.add("PATH", &path_, "a folder that data prepare wrote").placeholder("DIR").required();
  }
  int run(const CommandContext&) override {
    show(open_prepared_folder(path_, ShardCheck::everything));
    return 0;
  }

 private:
  std::string path_;
};

const Registered<Prepare> prepare("data prepare", "turn text into token shards");
const Registered<DataInfo> info("data info", "check token shards and show what they hold");

}  // namespace
}  // namespace harmonic
