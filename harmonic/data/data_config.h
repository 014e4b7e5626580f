// data: from files to batches of tokens. Readers, token shards, loaders.
//
// The keys of [data] in a run's TOML: which texts, and how they are read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harmonic/base/fields.h"

namespace harmonic {

struct DataConfig {
  std::vector<std::string> train;  // files, folders, globs, or "-" for standard input
  std::vector<std::string> valid;  // held out; none: no evaluation while training
  std::string tokenizer =
      "bytes";                  // or a tokenizer.json, a folder that holds one, or "bpe:4096" to train one
  std::string format = "auto";  // of document_format_names()
  std::string text_field = "text";  // of a JSON line
  bool within_document = false;     // windows stay inside one document where it is long enough
  std::string cache;                // folder for prepared shards; empty: $HARMONIC_CACHE, or the user's cache
  double cache_gb = 20;             // that it keeps; the least recently used go first; 0 is no limit

  // The fields of [data], bound to this object.
  std::vector<Field> fields();
  // Throws Error (usage) naming the key, its value and what would do.
  void validate() const;
  // The tokens that a tokenizer to be learned may have; 0 where none is to be.
  int64_t learned_vocab_size() const;
  // With every path absolute, those of patterns too, so that it means the same from any working folder.
  DataConfig with_absolute_paths() const;
};

}  // namespace harmonic
