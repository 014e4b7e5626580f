#include "harmonic/data/data_config.h"

#include <algorithm>
#include <filesystem>

#include "harmonic/base/error.h"

namespace harmonic {

std::vector<Field> DataConfig::fields() {
  return {
      Field("train", &train, "files, folders or globs to train on; - is standard input"),
      Field("valid", &valid, "held-out files, folders or globs"),
      Field("tokenizer", &tokenizer, "bytes, a tokenizer file or folder, or bpe:SIZE to train one"),
      Field("format", &format, "how documents are told apart")
          .one_of({"auto", "text", "jsonl", "nul", "blank", "shards"}),
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
  if (text_field.empty()) fail_usage("data.text_field is empty; expected the name of a JSON field");
}

DataConfig DataConfig::with_absolute_paths() const {
  // Not made shorter: "a/../b" is not "b" where a is a symbolic link.
  const auto absolute = [](std::string& path) { path = std::filesystem::absolute(path).string(); };
  DataConfig result = *this;
  for (auto* paths : {&result.train, &result.valid})
    for (std::string& path : *paths)
      if (path != "-") absolute(path);
  if (tokenizer != "bytes" && !tokenizer.starts_with(kLearnedTokenizer)) absolute(result.tokenizer);
  if (!cache.empty()) absolute(result.cache);
  return result;
}

}  // namespace harmonic
