// harmonic tokenizer train | encode | decode | info.
#include <charconv>
#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/cli/standard_input.h"
#include "harmonic/data/learned_tokenizer.h"
#include "harmonic/tokenizer/bpe_trainer.h"
#include "harmonic/tokenizer/parallel_encode.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {
namespace {

class TrainTokenizer : public Command {
 public:
  void declare(Options& options) override {
    options.add("--data", &data_, "texts: files, folders, patterns, or - for standard input")
        .placeholder("PATH")
        .required();
    options.add("--format", &format_, "how documents are told apart").one_of(text_format_names());
    options.add("--text-field", &text_field_, "of a JSON line");
    options.add("--vocab-size", &vocab_size_, "tokens in all: 256 bytes, merges, and the end of text")
        .range(BpeTrainer::kLeastVocabulary, BpeTrainer::kMostVocabulary);
    options.add("--out", &out_, "where tokenizer.json is written").placeholder("DIR").required();
  }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    for (const char* name : {"config.json", "model.safetensors", "run.toml"})
      if (std::filesystem::exists(std::filesystem::path(out_) / name))
        fail_usage("--out {}: holds {}: the model there has a tokenizer of its own; name another folder",
                   out_, name);
    ThreadPool pool(context.threads);
    const auto tokenizer = learn_tokenizer(
        data_, {.format = document_format_of(format_), .json_field = text_field_}, vocab_size_, pool);
    make_folder(out_);
    write_file(std::filesystem::path(out_) / "tokenizer.json", tokenizer->to_json());
    log("the tokenizer is in {}", out_);
    return 0;
  }

 private:
  std::vector<std::string> data_;
  std::string format_ = "auto", text_field_ = "text", out_;
  int64_t vocab_size_ = 4096;
};

class Encode : public Command {
 public:
  void declare(Options& options) override {
    options.add("--tokenizer", &tokenizer_, "\"bytes\", a tokenizer.json, or a folder with one")
        .placeholder("PATH")
        .required();
  }
  int run(const CommandContext& context) override {
    ThreadPool pool(context.threads);
    const auto tokenizer = load_tokenizer(tokenizer_);
    for (int32_t token : encode_in_parallel(*tokenizer, read_standard_input(), pool)) print("{}\n", token);
    return 0;
  }

 private:
  std::string tokenizer_;
};

class Decode : public Command {
 public:
  void declare(Options& options) override {
    options.add("--tokenizer", &tokenizer_, "\"bytes\", a tokenizer.json, or a folder with one")
        .placeholder("PATH")
        .required();
  }
  int run(const CommandContext&) override {
    const auto tokenizer = load_tokenizer(tokenizer_);
    const std::string text = read_standard_input();
    const char *at = text.data(), *end = at + text.size();
    for (bool first = true;;) {
      while (at != end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t' || *at == ',')) ++at;
      if (at == end) return 0;
      int32_t token = 0;
      const auto [next, error] = std::from_chars(at, end, token);
      if (error != std::errc())
        fail("standard input: expected token ids, numbers apart by spaces; found \"{}\"",
             std::string_view(at, std::min<size_t>(20, static_cast<size_t>(end - at))));
      write_output(first ? tokenizer->first_bytes_of(token) : tokenizer->bytes_of(token));
      first = token == tokenizer->bos() || token == tokenizer->eot();
      at = next;
    }
  }

 private:
  std::string tokenizer_;
};

class Info : public Command {
 public:
  void declare(Options& options) override {
    options.add("PATH", &path_, "\"bytes\", a tokenizer.json, or a folder with one").required();
  }
  int run(const CommandContext&) override {
    const auto tokenizer = load_tokenizer(path_);
    print("{:<12}{}\n", "vocabulary", tokenizer->vocab_size());
    if (tokenizer->bos() != tokenizer->eot()) print("{:<12}{}\n", "begin", tokenizer->bos());
    print("{:<12}{}\n{:<12}{}\n", "end of text", tokenizer->eot(), "hash", tokenizer->hash());
    return 0;
  }

 private:
  std::string path_;
};

const Registered<TrainTokenizer> train("tokenizer train", "learn a byte-level BPE vocabulary from text");
const Registered<Encode> encode("tokenizer encode", "token ids of standard input, a line each");
const Registered<Decode> decode("tokenizer decode", "the text of token ids on standard input");
const Registered<Info> info("tokenizer info", "what a tokenizer is");

}  // namespace
}  // namespace harmonic
