#include "harmonic/tokenizer/sentencepiece_json.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "harmonic/base/error.h"
#include "harmonic/tokenizer/json_vocabulary.h"

namespace harmonic {
namespace {

using Json = VocabularyJson;
using Kind = SentencePieceVocabulary::Kind;

constexpr std::string_view kMarker = "\xE2\x96\x81";  // U+2581: a space in the names of tokens

const Json kReplaceSpaces = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMarker}};
const Json kPrepend = {{"type", "Prepend"}, {"prepend", kMarker}};

std::string with_markers(std::string_view text) {
  std::string name;
  for (const char c : text)
    if (c == ' ') {
      name += kMarker;
    } else {
      name += c;
    }
  return name;
}

// Whether a text's tokens begin with a space of their own. Two forms say the same: a normalizer that puts
// U+2581 before the text and in place of its spaces, or the pre-tokenizer Metaspace.
bool reads_leading_space(const Json& file, std::string_view source) {
  const Json &normalizer = member(file, "normalizer"), &splitter = member(file, "pre_tokenizer");
  if (splitter.is_null()) {
    if (normalizer == kReplaceSpaces) return false;
    if (normalizer.is_object() && member(normalizer, "type") == "Sequence") {
      const Json& steps = member(normalizer, "normalizers");
      if (steps == Json::array({kPrepend, kReplaceSpaces})) return true;
      if (steps == Json::array({kReplaceSpaces})) return false;
    }
    fail(
        "{}: the normalizer {} is not supported; expected Prepend and Replace of SentencePiece's spaces "
        "(U+2581), or the pre_tokenizer Metaspace",
        source, shown(normalizer));
  }
  if (!normalizer.is_null())
    fail("{}: the normalizer {} beside a pre_tokenizer is not supported; only null is", source,
         shown(normalizer));
  require_type(splitter, "pre_tokenizer", "Metaspace", source);
  if (!splitter.is_object() || member(splitter, "replacement") != kMarker)
    fail("{}: the pre_tokenizer {} is not supported; only Metaspace with the replacement U+2581 is", source,
         shown(splitter));
  require_flag(splitter, "split", false, true, source);
  const Json& scheme = member(splitter, "prepend_scheme");
  if (scheme == "never") return false;
  if (scheme != "always" && scheme != "first")
    fail("{}: prepend_scheme = {} is not supported; expected always, first or never", source, shown(scheme));
  return true;
}

void check_decoder(const Json& decoder, std::string_view source) {
  if (decoder.is_null()) return;
  const Json steps = decoder.is_object() ? member(decoder, "decoders") : Json();
  bool known = decoder.is_object() && member(decoder, "type") == "Sequence" && steps.is_array();
  const std::initializer_list<const char*> names = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};
  for (size_t i = 0; known && i < steps.size(); ++i)
    known = steps[i].is_object() && std::any_of(names.begin(), names.end(), [&](const char* name) {
              return member(steps[i], "type") == name;
            });
  if (!known)
    fail("{}: the decoder {} is not supported; expected a Sequence of Replace, ByteFallback, Fuse and Strip",
         source, shown(decoder));
}

}  // namespace

int byte_of_name(std::string_view name) {
  if (name.size() != 6 || !name.starts_with("<0x") || name.back() != '>') return -1;
  int byte = -1;
  const auto [end, error] = std::from_chars(name.data() + 3, name.data() + 5, byte, 16);
  return error == std::errc() && end == name.data() + 5 ? byte : -1;
}

std::string without_markers(std::string_view name) {
  std::string text;
  while (!name.empty()) {
    const bool marker = name.starts_with(kMarker);
    text += marker ? ' ' : name.front();
    name.remove_prefix(marker ? kMarker.size() : 1);
  }
  return text;
}

std::unique_ptr<Tokenizer> read_sentencepiece_json(const Json& file, std::string_view source) {
  const Json& model = member(file, "model");
  SentencePieceVocabulary vocabulary;
  vocabulary.leading_space = reads_leading_space(file, source);
  check_decoder(member(file, "decoder"), source);
  VocabularyBuilder builder(source);
  builder.add_specials(member(file, "added_tokens"));
  builder.add_vocabulary(member(model, "vocab"));
  builder.add_merges(member(model, "merges"));
  const Json& unknown = member(model, "unk_token");
  if (!unknown.is_null() && !unknown.is_string())
    fail("{}: expected unk_token as a text, found {}", source, shown(unknown));
  NamedVocabulary named = builder.finish();
  for (size_t id = 0; id < named.names.size(); ++id) {
    const std::string& name = named.names[id];
    const int byte = byte_of_name(name);
    if (named.special[id]) {
      vocabulary.kinds.push_back(Kind::special);
      vocabulary.tokens.push_back(name);
      if (unknown == name) vocabulary.unknown = static_cast<int32_t>(id);
    } else if (byte >= 0) {
      vocabulary.kinds.push_back(Kind::byte);
      vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
    } else {
      if (name.find(' ') != name.npos)
        fail("{}: token {} ({}) holds a space; SentencePiece writes it U+2581", source, id, shown(name));
      vocabulary.kinds.push_back(Kind::text);
      vocabulary.tokens.push_back(without_markers(name));
    }
  }
  vocabulary.merges = std::move(named.merges);
  return make_sentencepiece_tokenizer(std::move(vocabulary), source);
}

std::string write_sentencepiece_json(const SentencePieceVocabulary& vocabulary, int32_t bos) {
  const auto kind = [&](int32_t id) { return vocabulary.kinds[static_cast<size_t>(id)]; };
  const auto name = [&](int32_t id) -> std::string {
    const std::string& token = vocabulary.tokens[static_cast<size_t>(id)];
    if (kind(id) == Kind::byte) return fmt::format("<0x{:02X}>", static_cast<uint8_t>(token[0]));
    return kind(id) == Kind::special ? token : with_markers(token);
  };
  const Json steps =
      vocabulary.leading_space ? Json::array({kPrepend, kReplaceSpaces}) : Json::array({kReplaceSpaces});
  Json decoders = {{{"type", "Replace"}, {"pattern", {{"String", kMarker}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (vocabulary.leading_space)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  const std::string lead = name(bos);
  const auto special = [&](int type) { return Json{{"SpecialToken", {{"id", lead}, {"type_id", type}}}}; };
  const auto text = [](const char* id, int type) {
    return Json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  const Json leads = {{"type", "TemplateProcessing"},
                      {"single", Json::array({special(0), text("A", 0)})},
                      {"pair", Json::array({special(0), text("A", 0), special(1), text("B", 1)})},
                      {"special_tokens", {{lead, {{"id", lead}, {"ids", {bos}}, {"tokens", {lead}}}}}}};
  TokenizerJsonParts parts;
  parts.normalizer = Json{{"type", "Sequence"}, {"normalizers", steps}}.dump();
  parts.post_processor = leads.dump();
  parts.decoder = Json{{"type", "Sequence"}, {"decoders", decoders}}.dump();
  parts.byte_fallback = true;
  if (vocabulary.unknown >= 0) parts.unknown = Json(name(vocabulary.unknown)).dump();
  return tokenizer_json_text(
      parts, static_cast<int64_t>(vocabulary.tokens.size()), name,
      [&](int32_t id) { return kind(id) == Kind::special; }, vocabulary.merges);
}

}  // namespace harmonic
