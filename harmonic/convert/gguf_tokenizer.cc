#include "harmonic/convert/gguf_tokenizer.h"

#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/utf8.h"
#include "harmonic/convert/llama.h"
#include "harmonic/tokenizer/json_vocabulary.h"
#include "harmonic/tokenizer/sentencepiece_bpe.h"
#include "harmonic/tokenizer/sentencepiece_json.h"
#include "harmonic/tokenizer/tokenizer_json.h"

namespace harmonic {
namespace {

constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;
constexpr size_t kMostTokens = size_t{1} << 24, kLongestToken = 1024;

struct Tokens {
  const std::vector<std::string_view>& names;
  const std::vector<int64_t>& types;
};

Tokens read_tokens(GgufValues& values) {
  const Tokens tokens = {values.list<std::string_view>("tokenizer.ggml.tokens", "texts"),
                         values.list<int64_t>("tokenizer.ggml.token_type", "integers")};
  if (tokens.names.empty() || tokens.names.size() > kMostTokens || tokens.types.size() != tokens.names.size())
    fail("{}: {} tokens and {} types of tokens; expected as many of both, 1 to {}", values.name(),
         tokens.names.size(), tokens.types.size(), kMostTokens);
  for (size_t id = 0; id < tokens.names.size(); ++id)
    if (const std::string_view text = tokens.names[id];
        text.empty() || text.size() > kLongestToken || !is_utf8(text))
      fail("{}: token {} has {} bytes; expected UTF-8 of 1 to {}", values.name(), id, text.size(),
           kLongestToken);
  return tokens;
}

[[noreturn]] void refuse_type(const GgufValues& values, const Tokens& tokens, size_t id) {
  fail(
      "{}: token {} (\"{}\") has the type {}; only normal, unknown, control and byte tokens (1, 2, 3, 6) are "
      "supported",
      values.name(), id, on_one_line(tokens.names[id]), tokens.types[id]);
}

std::unique_ptr<Tokenizer> read_sentencepiece(GgufValues& values) {
  using Kind = SentencePieceVocabulary::Kind;
  const Tokens tokens = read_tokens(values);
  SentencePieceVocabulary vocabulary;
  for (size_t id = 0; id < tokens.names.size(); ++id) {
    const std::string_view name = tokens.names[id];
    const auto add = [&](std::string token, Kind kind) {
      vocabulary.tokens.push_back(std::move(token));
      vocabulary.kinds.push_back(kind);
    };
    switch (tokens.types[id]) {
      case kNormal:
        if (name.find(' ') != name.npos)
          fail("{}: token {} (\"{}\") holds a space; SentencePiece writes it U+2581", values.name(), id,
               on_one_line(name));
        add(without_markers(name), Kind::text);
        break;
      case kUnknown:
        vocabulary.unknown = static_cast<int32_t>(id);
        add(std::string(name), Kind::special);
        break;
      case kControl:
        add(std::string(name), Kind::special);
        break;
      case kByte: {
        const int byte = byte_of_name(name);
        if (byte < 0)
          fail("{}: token {} is a byte with the name \"{}\"; expected <0x00> to <0xFF>", values.name(), id,
               on_one_line(name));
        add(std::string(1, static_cast<char>(byte)), Kind::byte);
        break;
      }
      default:
        refuse_type(values, tokens, id);
    }
  }
  std::vector<float> scores;
  for (const double score : values.list<double>("tokenizer.ggml.scores", "numbers")) {
    if (!std::isfinite(score)) fail("{}: a token's score is not finite: the file is damaged", values.name());
    scores.push_back(static_cast<float>(score));
  }
  if (scores.size() != tokens.names.size())
    fail("{}: {} tokens and {} scores; expected as many of both", values.name(), tokens.names.size(),
         scores.size());
  vocabulary.merges = merges_from_scores(vocabulary, scores, values.name());
  vocabulary.leading_space = values.flag("tokenizer.ggml.add_space_prefix", true);
  if (!values.flag("tokenizer.ggml.add_bos_token", true))
    values.wrong("tokenizer.ggml.add_bos_token", "false",
                 "true: other models of this kind are not supported");
  values.ignore("tokenizer.ggml.merges");  // the same as the scores say
  values.ignore("tokenizer.ggml.pre");     // "default", the only one of this kind
  return make_sentencepiece_tokenizer(std::move(vocabulary), values.name());
}

Splitting splitting_of(GgufValues& values) {
  const std::string_view name = values.text("tokenizer.ggml.pre", "missing");
  if (name == "gpt-2") return Splitting::gpt2;
  if (name == "smollm") return Splitting::single_digits;
  values.wrong("tokenizer.ggml.pre", name, "gpt-2 or smollm: other pre-tokenizers are not supported");
}

std::unique_ptr<Tokenizer> read_byte_level(GgufValues& values) {
  const Splitting splitting = splitting_of(values);
  const Tokens tokens = read_tokens(values);
  VocabularyBuilder builder(values.name());
  for (size_t id = 0; id < tokens.names.size(); ++id) {
    if (tokens.types[id] == kNormal) {
      builder.add_token(tokens.names[id], static_cast<int32_t>(id));
    } else if (tokens.types[id] == kControl || tokens.types[id] == kUnknown) {
      builder.add_special(std::string(tokens.names[id]), static_cast<int32_t>(id));
    } else {
      refuse_type(values, tokens, id);
    }
  }
  const auto& merges = values.list<std::string_view>("tokenizer.ggml.merges", "texts");
  for (const std::string_view merge : merges) builder.add_merge_line(merge);
  if (values.flag("tokenizer.ggml.add_bos_token", false))
    values.wrong("tokenizer.ggml.add_bos_token", "true",
                 "false: other models of this kind are not supported");
  if (values.flag("tokenizer.ggml.add_space_prefix", false))
    values.wrong("tokenizer.ggml.add_space_prefix", "true", "false");
  return make_byte_level_tokenizer(builder.finish(), splitting, values.name());
}

}  // namespace

std::unique_ptr<Tokenizer> read_gguf_tokenizer(GgufValues& values) {
  const std::string_view model = values.text("tokenizer.ggml.model");
  std::unique_ptr<Tokenizer> tokenizer;
  if (model == "llama") {
    tokenizer = read_sentencepiece(values);
  } else if (model == "gpt2") {
    tokenizer = read_byte_level(values);
  } else {
    values.wrong("tokenizer.ggml.model", model, "llama or gpt2: other tokenizers are not supported");
  }
  constexpr int64_t most = int64_t{1} << 24;
  check_text_ends(*tokenizer, values.integer("tokenizer.ggml.bos_token_id", 0, most, -1),
                  values.integer("tokenizer.ggml.eos_token_id", 0, most, -1), values.name());
  if (values.flag("tokenizer.ggml.add_eos_token", false))
    values.wrong("tokenizer.ggml.add_eos_token", "true", "false");
  if (values.flag("tokenizer.ggml.remove_extra_whitespaces", false))
    values.wrong("tokenizer.ggml.remove_extra_whitespaces", "true", "false");
  // Tokens that other programs look for: none is made from text.
  for (const char* role : {"unknown", "padding", "seperator", "eot", "eom", "cls", "mask"})
    values.ignore(fmt::format("tokenizer.ggml.{}_token_id", role));
  values.refuse_others({"tokenizer.ggml."});
  return tokenizer;
}

}  // namespace harmonic
