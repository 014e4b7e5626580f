// harmonic data fetch | prepare | info | recall.
#include "harmonic/base/checked.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/data/corpora.h"
#include "harmonic/data/corpus_fetch.h"
#include "harmonic/data/corpus_preparation.h"
#include "harmonic/data/recall_text.h"
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
    options.add("--format", &format_, "how documents are told apart").one_of(text_format_names());
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

class Recall : public Command {
 public:
  void declare(Options& options) override {
    options.add("--out", &out_, "where the documents are written, each ended by a NUL byte")
        .placeholder("FILE")
        .required();
    options.add("--documents", &documents_, "how many").amount().at_least(1);
    options.add("--length", &length_, "bytes of each").amount().range(1, RecallText::kMostBytes);
    options.add("--seed", &seed_, "of everything that is drawn").at_least(0);
    options.add("--pairs", &pairs_, "keys bound at a time, by the documents in turn; 1 is a passkey")
        .range(1, RecallText::kMostPairs);
    options.add("--filler", &filler_, "a text that filler is cut from, in place of made-up words")
        .placeholder("FILE")
        .not_empty();
  }
  int run(const CommandContext&) override {
    watch_for_interrupts();
    const int64_t bytes = checked_mul(documents_, length_, "--documents x --length");
    AtomicFile file(out_);
    const RecallText text = RecallText::with_filler_of(filler_);
    for (int64_t d = 0; d < documents_; ++d) {
      stop_if_interrupted();
      const int64_t pairs = pairs_[static_cast<size_t>(d) % pairs_.size()];
      file.write(text.document(static_cast<uint64_t>(seed_), static_cast<uint64_t>(d), pairs, length_) +
                 '\0');
    }
    file.commit();
    print("{:<20}{}\n{:<20}{}\n", "documents", documents_, "bytes of text", bytes);
    return 0;
  }

 private:
  std::string out_, filler_;
  int64_t documents_ = 1000, length_ = 1024, seed_ = 1;
  std::vector<int64_t> pairs_ = {1, 1, 1, 2, 2, 4};
};

class Fetch : public Command {
 public:
  void declare(Options& options) override {
    options.add("NAME", &name_, "a corpus that --list shows");
    options.add("--out", &out_, "where its files are written; the corpus's name when left out")
        .placeholder("DIR");
    options.add("--mirror", &mirror_, "address of a folder that has the file, in place of the corpus's own")
        .placeholder("URL")
        .not_empty();
    options.add("--split", &split_, "enwik8: 90/5/5 or 90/10, the parts of it in millions of bytes");
    options.add("--list", &list_, "show the corpora, and fetch nothing");
  }
  int run(const CommandContext&) override {
    if (list_) {
      for (const Corpus& corpus : corpora())
        print("{:<17}{:>15}  {}\n{:<34}{}\n", corpus.name,
              corpus.bytes > 0 ? fmt::format("{} bytes", corpus.bytes) : "by hand", corpus.about, "",
              corpus.addresses.empty() ? corpus.by_hand : corpus.addresses.front());
      return 0;
    }
    if (name_.empty()) fail_usage("data fetch: the name of a corpus is missing; --list shows them");
    const Corpus& corpus = corpus_named(name_);
    watch_for_interrupts();
    for (const std::filesystem::path& file :
         fetch_corpus(corpus, {out_.empty() ? name_ : out_, mirror_, split_}))
      print("{}  {} bytes\n", file.string(), std::filesystem::file_size(file));
    if (corpus.format != "auto") print("read with data.format = \"{}\"\n", corpus.format);
    return 0;
  }

 private:
  std::string name_, out_, mirror_, split_;
  bool list_ = false;
};

const Registered<Fetch> fetch("data fetch", "download a corpus that is known by name");
const Registered<Prepare> prepare("data prepare", "turn text into token shards");
const Registered<DataInfo> info("data info", "check token shards and show what they hold");
const Registered<Recall> recall("data recall", "make up texts that ask for what they said before");

}  // namespace
}  // namespace harmonic
