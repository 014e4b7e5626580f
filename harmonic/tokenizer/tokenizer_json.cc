#include "harmonic/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/tokenizer/byte_alphabet.h"
#include "harmonic/tokenizer/end_of_text.h"
#include "harmonic/tokenizer/json_vocabulary.h"
#include "harmonic/tokenizer/sentencepiece_json.h"

namespace harmonic {
namespace {

using Json = VocabularyJson;

constexpr int64_t max_file_bytes = int64_t{1} << 28;

// What write_tokenizer_json makes of the byte tokenizer.
bool is_bytes(const BpeVocabulary& vocabulary) {
  if (vocabulary.tokens.size() != 256 || !vocabulary.merges.empty()) return false;
  for (size_t byte = 0; byte < 256; ++byte)
    if (vocabulary.special[byte] || vocabulary.tokens[byte] != std::string(1, static_cast<char>(byte)))
      return false;
  return true;
}

// ByteLevel alone, or after digits have been cut out one by one.
Splitting read_splitting(const Json& splitter, std::string_view source) {
  if (splitter.is_null()) fail("{}: no pre_tokenizer; only ByteLevel is supported", source);
  const Json* byte_level = &splitter;
  Splitting splitting = Splitting::gpt2;
  if (splitter.is_object() && member(splitter, "type") == "Sequence") {
    const Json& steps = member(splitter, "pretokenizers");
    if (!steps.is_array() || steps.size() != 2 || !steps[0].is_object() || !steps[1].is_object())
      fail("{}: the pre_tokenizer {} is not supported; only ByteLevel, or Digits and ByteLevel, are", source,
           shown(steps));
    require_type(steps[0], "first pre_tokenizer", "Digits", source);
    require_flag(steps[0], "individual_digits", true, false, source);
    byte_level = &steps[1];
    splitting = Splitting::single_digits;
  }
  require_type(*byte_level, "pre_tokenizer", "ByteLevel", source);
  require_flag(*byte_level, "add_prefix_space", false, true, source);
  require_flag(*byte_level, "use_regex", true, true, source);
  return splitting;
}

Splitting check_byte_level(const Json& file, std::string_view source) {
  const Json& normalizer = member(file, "normalizer");
  if (!normalizer.is_null())
    fail("{}: the normalizer {} is not supported; only null is", source,
         shown(normalizer.is_object() ? member(normalizer, "type") : normalizer));
  require_type(member(file, "decoder"), "decoder", "ByteLevel", source);
  return read_splitting(member(file, "pre_tokenizer"), source);
}

// Padding, truncation and the post-processor are not read: they wrap tokens and do not change them.
void check_model(const Json& model, std::string_view source) {
  require_type(member(model, "type"), "model", "BPE", source);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& value = member(model, key);
    if (!value.is_null() && value != "")
      fail("{}: {} = {} is not supported; only \"\" is", source, key, shown(value));
  }
  const Json& dropout = member(model, "dropout");
  if (!dropout.is_null() && dropout != 0)
    fail("{}: dropout = {} is not supported; only null is", source, shown(dropout));
  require_flag(model, "ignore_merges", false, false, source);
}

}  // namespace

std::unique_ptr<Tokenizer> make_byte_level_tokenizer(NamedVocabulary named, Splitting splitting,
                                                     std::string_view source) {
  BpeVocabulary vocabulary;
  vocabulary.splitting = splitting;
  vocabulary.tokens = std::move(named.names);
  vocabulary.special = std::move(named.special);
  vocabulary.merges = std::move(named.merges);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.special[id]) continue;
    std::optional<std::string> bytes = from_alphabet(vocabulary.tokens[id]);
    if (!bytes)
      fail("{}: token {} ({}) is neither a special token nor written in the alphabet of byte-level BPE",
           source, id, shown(vocabulary.tokens[id]));
    vocabulary.tokens[id] = std::move(*bytes);
  }
  if (splitting == Splitting::gpt2 && is_bytes(vocabulary)) return make_byte_tokenizer();
  vocabulary.eot = choose_end_of_text(named.specials, source);
  return make_bpe_tokenizer(std::move(vocabulary), source);
}

std::unique_ptr<Tokenizer> read_tokenizer_json(std::string_view content, std::string_view source) {
  if (static_cast<int64_t>(content.size()) > max_file_bytes)
    fail("{}: {} bytes, more than the {} that a tokenizer may have", source, content.size(), max_file_bytes);
  const Json file = parse_vocabulary_json(content, source);
  const Json& model = file.is_object() ? member(file, "model") : file;
  if (!file.is_object() || !model.is_object())
    fail("{}: expected an object with a model, as in Hugging Face's tokenizer.json, found {}", source,
         shown(model));
  check_model(model, source);
  // SentencePiece's kind falls back to bytes; the byte-level kind knows nothing else.
  if (member(model, "byte_fallback") == true) return read_sentencepiece_json(file, source);
  const Splitting splitting = check_byte_level(file, source);
  VocabularyBuilder builder(source);
  builder.add_specials(member(file, "added_tokens"));
  builder.add_vocabulary(member(model, "vocab"));
  builder.make_special(kGpt2EndOfText);
  builder.add_merges(member(model, "merges"));
  return make_byte_level_tokenizer(builder.finish(), splitting, source);
}

std::unique_ptr<Tokenizer> read_gpt2_files(const std::filesystem::path& encoder,
                                           const std::filesystem::path& merges) {
  const Json vocabulary = parse_vocabulary_json(read_file(encoder, max_file_bytes), encoder.string());
  const std::string source = encoder.string() + " with " + merges.filename().string();
  VocabularyBuilder builder(source);
  builder.add_vocabulary(vocabulary);
  builder.make_special(kGpt2EndOfText);

  const std::string content = read_file(merges, max_file_bytes);
  std::string_view rest = content;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    // "#" is a letter of the alphabet: only the first line can be a comment.
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const size_t blank = line.find(' ');
    if (blank == line.npos || line.find(' ', blank + 1) != line.npos)
      fail("{}: line {}: expected two tokens with a space between, found \"{}\"", merges.string(), number,
           line.substr(0, 60));
    builder.add_merge(line.substr(0, blank), line.substr(blank + 1));
  }
  return make_byte_level_tokenizer(builder.finish(), Splitting::gpt2, source);
}

std::string write_tokenizer_json(const BpeVocabulary& vocabulary) {
  const std::string byte_level =
      "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, \"use_regex\": true}";
  const auto special = [&](int32_t id) { return vocabulary.special[static_cast<size_t>(id)]; };
  const auto name = [&](int32_t id) {
    const std::string& token = vocabulary.tokens[static_cast<size_t>(id)];
    return special(id) ? token : to_alphabet(token);
  };
  const std::string splitter = vocabulary.splitting == Splitting::gpt2
                                   ? byte_level
                                   : "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
                                     "\"individual_digits\": true}, " +
                                         byte_level + "]}";
  return tokenizer_json_text({"null", splitter, byte_level, byte_level, "null", false},
                             static_cast<int64_t>(vocabulary.tokens.size()), name, special,
                             vocabulary.merges);
}

}  // namespace harmonic
