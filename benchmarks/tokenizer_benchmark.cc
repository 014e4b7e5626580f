// Encoding speed on ordinary text and on the worst inputs, and the time to train a vocabulary.
//
//   tokenizer_benchmark [--tokenizer DIR] [--vocab N] [--only-text] [TEXT_FILE]
//
// Without --tokenizer it encodes with the vocabulary it trains; without a file (or HARMONIC_BENCHMARK_TEXT)
// it makes up 50 MB of words by Zipf's law. --only-text leaves out the worst inputs.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/random.h"
#include "harmonic/base/thread_pool.h"
#include "harmonic/bench/measurement.h"
#include "harmonic/tokenizer/bpe_trainer.h"
#include "harmonic/tokenizer/parallel_encode.h"

namespace harmonic {
namespace {

constexpr size_t megabyte = 1'000'000;

// Words of 1 to 12 letters; the n-th most frequent one comes with a probability of about 1 / n.
std::string made_up_text(size_t size) {
  const Random random(1, stream_of("benchmark text"));
  std::string text;
  for (uint64_t i = 0; text.size() < size; ++i) {
    const uint64_t word = static_cast<uint64_t>(std::exp(random.uniform(i) * std::log(200'000.0)));
    const Random letters(word, stream_of("benchmark word"));
    const uint64_t length = 1 + letters.below(0, 12);
    for (uint64_t letter = 1; letter <= length; ++letter)
      text += static_cast<char>('a' + letters.below(letter, 26));
    text += random.below(i, 12) == 0 ? ", " : random.below(i, 60) == 1 ? ".\n" : " ";
  }
  return text;
}

std::string random_text(size_t size, uint64_t values, char first) {
  const Random random(2, stream_of("benchmark bytes"));
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i)
    text[i] = static_cast<char>(first + static_cast<char>(random.below(i, values)));
  return text;
}

void report_encoding(const char* name, const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> tokens;
  const double seconds = seconds_of([&] { tokenizer.encode(text, tokens); });
  std::printf("encode %-28s %8.1f MB %8.4f s %8.1f MB/s %10zu tokens %6.2f bytes/token\n", name,
              static_cast<double>(text.size()) / megabyte, seconds,
              static_cast<double>(text.size()) / megabyte / seconds, tokens.size(),
              static_cast<double>(text.size()) / static_cast<double>(tokens.size()));
  if (tokenizer.decode(tokens) != text) fail("{}: decoding does not give the text again", name);
}

void run(int argc, char** argv) {
  std::string folder, file;
  int64_t vocab_size = 8192;
  bool only_text = false;
  if (const char* text = std::getenv("HARMONIC_BENCHMARK_TEXT")) file = text;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--tokenizer") == 0 && i + 1 < argc)
      folder = argv[++i];
    else if (std::strcmp(argv[i], "--vocab") == 0 && i + 1 < argc)
      vocab_size = std::atoll(argv[++i]);
    else if (std::strcmp(argv[i], "--only-text") == 0)
      only_text = true;
    else
      file = argv[i];
  }
  std::string text = file.empty() ? made_up_text(50 * megabyte) : read_file(file);
  if (text.size() > 50 * megabyte) text.resize(50 * megabyte);
  std::printf("text: %s, %.1f MB\n", file.empty() ? "made up" : file.c_str(),
              static_cast<double>(text.size()) / megabyte);

  ThreadPool pool;
  std::unique_ptr<Tokenizer> tokenizer;
  if (folder.empty()) {
    const std::string_view view = text;
    const double seconds = seconds_of([&] { tokenizer = train_bpe({&view, 1}, vocab_size, pool); });
    std::printf("train  %lld tokens on %d threads: %.2f s\n", static_cast<long long>(tokenizer->vocab_size()),
                pool.threads(), seconds);
  } else {
    const double seconds = seconds_of([&] { tokenizer = load_tokenizer(folder); });
    std::printf("load   %lld tokens: %.3f s\n", static_cast<long long>(tokenizer->vocab_size()), seconds);
  }

  report_encoding("text", *tokenizer, text);
  if (only_text) return;
  std::vector<int32_t> tokens;
  const double seconds = seconds_of([&] { tokens = encode_in_parallel(*tokenizer, text, pool); });
  std::printf("encode text on %d threads %29.3f s %8.1f MB/s\n", pool.threads(), seconds,
              static_cast<double>(text.size()) / megabyte / seconds);
  const size_t size = 10 * megabyte;
  report_encoding("one letter", *tokenizer, std::string(size, 'a'));
  report_encoding("spaces", *tokenizer, std::string(size, ' '));
  report_encoding("line ends", *tokenizer, std::string(size, '\n'));
  report_encoding("digits of one kind", *tokenizer, std::string(size, '0'));
  report_encoding("random bytes", *tokenizer, random_text(size, 256, '\0'));
  report_encoding("random letters", *tokenizer, random_text(size, 26, 'a'));
  report_encoding("two letters at random", *tokenizer, random_text(size, 2, 'a'));
}

}  // namespace
}  // namespace harmonic

int main(int argc, char** argv) {
  try {
    harmonic::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tokenizer_benchmark: error: %s\n", error.what());
    return 1;
  }
}
