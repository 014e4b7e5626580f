// The vocabulary of a tokenizer.json as it stands there: names, ids, merges and special tokens, whatever kind
// of tokenizer they make. Include it only where such files are read or written: JSON is slow to compile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "harmonic/tokenizer/bpe.h"

namespace harmonic {

// Not the ordered kind of base/json.h: its objects are searched from end to end, and a vocabulary has 50,000
// keys.
using VocabularyJson = nlohmann::json;

VocabularyJson parse_vocabulary_json(std::string_view content, std::string_view source);
// The member of an object, or null.
const VocabularyJson& member(const VocabularyJson& object, const char* key);
// A short form of what was found, for an error message.
std::string shown(const VocabularyJson& value);
// Checks that a part of the file is absent or of the one supported type.
void require_type(const VocabularyJson& part, const char* name, std::string_view supported,
                  std::string_view source);
// Checks a switch, which is `absent` where it is missing.
void require_flag(const VocabularyJson& part, const char* key, bool supported, bool absent,
                  std::string_view source);

// Names by id, without a hole.
struct NamedVocabulary {
  std::vector<std::string> names;
  std::vector<bool> special;
  std::vector<BpeMerge> merges;
  std::map<int32_t, std::string> specials;
};

// Collects names and ids, in whatever order they come, checked as a whole by finish().
class VocabularyBuilder {
 public:
  explicit VocabularyBuilder(std::string_view source) : source_(source) {}

  void add_special(const std::string& name, int32_t id);
  // The added tokens of a tokenizer.json, all special.
  void add_specials(const VocabularyJson& added);
  // `vocabulary`, which must outlive this, is an object from names to ids.
  void add_vocabulary(const VocabularyJson& vocabulary);
  // A token of the vocabulary whose name, which must outlive this, no other has.
  void add_token(std::string_view name, int32_t id);
  // A name of the vocabulary that is special even where no list of added tokens says so.
  void make_special(std::string_view name);
  void add_merge(std::string_view left, std::string_view right);
  // "left right"
  void add_merge_line(std::string_view line);
  // The merges of a tokenizer.json.
  void add_merges(const VocabularyJson& merges);

  NamedVocabulary finish();

 private:
  int32_t read_id(std::string_view name, const VocabularyJson& id) const;
  int32_t id_of(std::string_view name) const;

  std::string source_, joined_;
  std::unordered_map<std::string_view, int32_t> ids_;
  std::map<int32_t, std::string> specials_;
  std::vector<BpeMerge> merges_;
};

// The parts of a tokenizer.json that depend on its kind, as JSON.
struct TokenizerJsonParts {
  std::string normalizer = "null", pre_tokenizer = "null", post_processor = "null", decoder = "null";
  std::string unknown = "null";  // the name of the unknown token
  bool byte_fallback = false;
};
// The content of a tokenizer.json; `name_of` gives each token's name.
std::string tokenizer_json_text(const TokenizerJsonParts& parts, int64_t vocab_size,
                                const std::function<std::string(int32_t)>& name_of,
                                const std::function<bool(int32_t)>& is_special,
                                const std::vector<BpeMerge>& merges);

}  // namespace harmonic
