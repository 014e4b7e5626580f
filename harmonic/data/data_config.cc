#include "harmonic/data/data_config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>

#include "harmonic/base/error.h"
#include "harmonic/data/document_reader.h"
#include "harmonic/tokenizer/bpe_trainer.h"

namespace harmonic {
namespace {

// What the tokenizer's name begins with when one is to be learned: "bpe:4096".
constexpr std::string_view kLearnedTokenizer = "bpe:";

}  // namespace

std::vector<Field> DataConfig::fields() {
  return {
      Field("train", &train, "files, folders or globs to train on; - is standard input"),
      Field("valid", &valid, "held-out files, folders or globs"),
      Field("tokenizer", &tokenizer, "bytes, a tokenizer file or folder, or bpe:SIZE to train one"),
      Field("format", &format, "how documents are told apart").one_of(document_format_names()),
      Field("text_field", &text_field, "the field of a JSON line that holds the text"),
      Field("within_document", &within_document, "windows stay inside one document where it is long enough"),
      Field("cache", &cache,
            "folder for prepared token shards; empty is $HARMONIC_CACHE/tokens, or the user's cache folder"),
      Field("cache_gb", &cache_gb, "GB of token shards kept there, the last used ones; 0 is no limit")
          .range(0, 1e9),
  };
}

void DataConfig::validate() const {
  DataConfig copy = *this;
  check_fields(copy.fields(), "data");
  for (const auto* paths : {&train, &valid}) {
    if (std::find(paths->begin(), paths->end(), "") != paths->end())
      fail_usage("data.{}: an empty path; expected a file, a folder or a glob",
                 paths == &train ? "train" : "valid");
  }
  if (tokenizer.empty()) fail_usage("data.tokenizer is empty; expected bytes, a file or folder, or bpe:SIZE");
  learned_vocab_size();
  if (text_field.empty()) fail_usage("data.text_field is empty; expected the name of a JSON field");
}

int64_t DataConfig::learned_vocab_size() const {
  if (!tokenizer.starts_with(kLearnedTokenizer)) return 0;
  const std::string_view digits = std::string_view(tokenizer).substr(kLearnedTokenizer.size());
  const char* const end = digits.data() + digits.size();
  int64_t size = 0;
  const auto parsed = std::from_chars(digits.data(), end, size);
  if (parsed.ec != std::errc{} || parsed.ptr != end || size < BpeTrainer::kLeastVocabulary ||
      size > BpeTrainer::kMostVocabulary)
    fail_usage("data.tokenizer = \"{}\": expected bpe:SIZE with {} to {} tokens, as in bpe:4096", tokenizer,
               BpeTrainer::kLeastVocabulary, BpeTrainer::kMostVocabulary);
  return size;
}

DataConfig DataConfig::with_absolute_paths() const {
  // Not made shorter: "a/../b" is not "b" where a is a symbolic link.
  const auto absolute = [](std::string& path) { path = std::filesystem::absolute(path).string(); };
  DataConfig result = *this;
  for (auto* paths : {&result.train, &result.valid})
    for (std::string& path : *paths)
      if (path != "-") absolute(path);
  if (tokenizer != "bytes" && learned_vocab_size() == 0) absolute(result.tokenizer);
  if (!cache.empty()) absolute(result.cache);
  return result;
}

}  // namespace harmonic
