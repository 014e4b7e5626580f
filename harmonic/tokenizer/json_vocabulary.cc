#include "harmonic/tokenizer/json_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

#include "harmonic/base/error.h"
#include "harmonic/base/json.h"

namespace harmonic {
namespace {

constexpr int64_t max_vocab_size = int64_t{1} << 24;
constexpr int max_depth = 16;

}  // namespace

VocabularyJson parse_vocabulary_json(std::string_view content, std::string_view source) {
  return parse_json<VocabularyJson>(content, source, max_depth, max_vocab_size);
}

// The member of an object, or null.
const VocabularyJson& member(const VocabularyJson& object, const char* key) {
  static const VocabularyJson null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

// A short form of what was found, for an error message.
std::string shown(const VocabularyJson& value) {
  std::string text = value.dump(-1, ' ', true, VocabularyJson::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// Checks that a part of the file is absent or of the one supported type.
void require_type(const VocabularyJson& part, const char* name, std::string_view supported,
                  std::string_view source) {
  if (part.is_null()) return;
  const VocabularyJson& type = part.is_object() ? member(part, "type") : part;
  if (!type.is_string() || type != supported)
    fail("{}: the {} {} is not supported; only {} is", source, name, shown(type), supported);
}

void require_flag(const VocabularyJson& part, const char* key, bool supported, bool absent,
                  std::string_view source) {
  const VocabularyJson& flag = member(part, key);
  const bool value = flag.is_boolean() ? flag.get<bool>() : absent;
  if ((!flag.is_null() && !flag.is_boolean()) || value != supported)
    fail("{}: {} = {} is not supported; only {} is", source, key,
         flag.is_null() ? fmt::to_string(absent) : shown(flag), supported);
}

void VocabularyBuilder::add_special(const std::string& name, int32_t id) {
  if (!specials_.emplace(id, name).second) fail("{}: two added tokens have the id {}", source_, id);
}

void VocabularyBuilder::add_specials(const VocabularyJson& added) {
  if (added.is_null()) return;
  if (!added.is_array()) fail("{}: expected added_tokens as an array, found {}", source_, shown(added));
  for (const VocabularyJson& token : added) {
    const VocabularyJson& content = token.is_object() ? member(token, "content") : VocabularyJson();
    if (!content.is_string() || content == "")
      fail("{}: expected an added token as an object with its content, found {}", source_, shown(token));
    const VocabularyJson& special = member(token, "special");
    if (special != true)
      fail("{}: the added token {} with special = {} is not supported; only special tokens are", source_,
           shown(content), shown(special));
    const auto name = content.get<std::string>();
    add_special(name, read_id(name, member(token, "id")));
  }
}

void VocabularyBuilder::add_vocabulary(const VocabularyJson& vocabulary) {
  if (!vocabulary.is_object() || vocabulary.empty())
    fail("{}: expected the vocabulary as an object from token to id, found {}", source_, shown(vocabulary));
  ids_.reserve(vocabulary.size());
  for (auto token = vocabulary.begin(); token != vocabulary.end(); ++token)
    ids_.emplace(token.key(), read_id(token.key(), token.value()));
}

void VocabularyBuilder::add_token(std::string_view name, int32_t id) {
  const auto [other, is_new] = ids_.emplace(name, id);
  if (!is_new) fail("{}: the tokens {} and {} have the same name", source_, other->second, id);
}

void VocabularyBuilder::make_special(std::string_view name) {
  const auto found = ids_.find(name);
  if (found != ids_.end()) specials_.emplace(found->second, name);
}

void VocabularyBuilder::add_merge(std::string_view left, std::string_view right) {
  joined_.assign(left);
  joined_ += right;
  merges_.push_back({id_of(left), id_of(right), id_of(joined_)});
}

void VocabularyBuilder::add_merge_line(std::string_view line) {
  const size_t blank = line.find(' ');
  if (blank == line.npos || line.find(' ', blank + 1) != line.npos)
    fail("{}: expected each merge as \"left right\" or [\"left\", \"right\"], found {}", source_,
         shown(line));
  add_merge(line.substr(0, blank), line.substr(blank + 1));
}

void VocabularyBuilder::add_merges(const VocabularyJson& merges) {
  if (!merges.is_array()) fail("{}: expected merges as an array, found {}", source_, shown(merges));
  if (static_cast<int64_t>(merges.size()) > max_vocab_size)
    fail("{}: {} merges, more than the {} allowed", source_, merges.size(), max_vocab_size);
  for (const VocabularyJson& merge : merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
      continue;
    }
    if (!merge.is_string())
      fail("{}: expected each merge as \"left right\" or [\"left\", \"right\"], found {}", source_,
           shown(merge));
    add_merge_line(merge.get_ref<const std::string&>());
  }
}

int32_t VocabularyBuilder::read_id(std::string_view name, const VocabularyJson& id) const {
  if (!id.is_number_integer() || id < 0 || id >= max_vocab_size)
    fail("{}: expected the id of token {} as an integer from 0 to {}, found {}", source_, shown(name),
         max_vocab_size - 1, shown(id));
  return id.get<int32_t>();
}

int32_t VocabularyBuilder::id_of(std::string_view name) const {
  const auto found = ids_.find(name);
  if (found == ids_.end())
    fail("{}: merge {} names the token {}, which is not in the vocabulary", source_, merges_.size(),
         shown(name));
  return found->second;
}

NamedVocabulary VocabularyBuilder::finish() {
  int32_t last = specials_.empty() ? -1 : specials_.rbegin()->first;
  for (const auto& [name, id] : ids_) last = std::max(last, id);
  const size_t size = static_cast<size_t>(last) + 1;
  // Ids without a hole are as many as there are tokens, give or take the specials that are listed twice.
  if (size > ids_.size() + specials_.size())
    fail("{}: {} tokens have ids up to {}; ids must be 0, 1, 2, ... without a hole", source_,
         ids_.size() + specials_.size(), last);

  NamedVocabulary vocabulary;
  vocabulary.names.resize(size);
  vocabulary.special.assign(size, false);
  std::vector<bool> taken(size, false);
  for (const auto& [id, name] : specials_) {
    const auto found = ids_.find(name);
    if (found != ids_.end() && found->second != id)
      fail("{}: token {} has the id {} in the vocabulary and {} as an added token", source_, shown(name),
           found->second, id);
    const size_t at = static_cast<size_t>(id);
    vocabulary.names[at] = name;
    vocabulary.special[at] = true;
    taken[at] = true;
  }
  for (const auto& [name, id] : ids_) {
    const size_t at = static_cast<size_t>(id);
    if (vocabulary.special[at] && vocabulary.names[at] == name) continue;
    if (taken[at]) fail("{}: two tokens have the id {}, one of them {}", source_, id, shown(name));
    taken[at] = true;
    vocabulary.names[at] = name;
  }
  const auto hole = std::find(taken.begin(), taken.end(), false);
  if (hole != taken.end())
    fail("{}: no token has the id {}; ids must be 0, 1, 2, ... without a hole", source_,
         hole - taken.begin());
  vocabulary.merges = std::move(merges_);
  vocabulary.specials = std::move(specials_);
  return vocabulary;
}

std::string tokenizer_json_text(const TokenizerJsonParts& parts, int64_t vocab_size,
                                const std::function<std::string(int32_t)>& name_of,
                                const std::function<bool(int32_t)>& is_special,
                                const std::vector<BpeMerge>& merges) {
  const auto quoted = [](const std::string& text) { return VocabularyJson(text).dump(); };
  const auto size = static_cast<int32_t>(vocab_size);
  std::string out =
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n";
  for (int32_t id = 0; id < size; ++id) {
    if (!is_special(id)) continue;
    out += fmt::format(
        "{}    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
        "\"normalized\": false, \"special\": true}}",
        separator, id, quoted(name_of(id)));
    separator = ",\n";
  }
  out += fmt::format(
      "],\n  \"normalizer\": {},\n  \"pre_tokenizer\": {},\n  \"post_processor\": {},\n  \"decoder\": {},\n",
      parts.normalizer, parts.pre_tokenizer, parts.post_processor, parts.decoder);
  out += fmt::format(
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": {},\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": "
      "false,\n"
      "    \"byte_fallback\": {},\n    \"ignore_merges\": false,\n    \"vocab\": {{",
      parts.unknown, parts.byte_fallback);
  separator = "\n";
  for (int32_t id = 0; id < size; ++id) {
    out += fmt::format("{}      {}: {}", separator, quoted(name_of(id)), id);
    separator = ",\n";
  }
  out += "\n    },\n    \"merges\": [";
  separator = "\n";
  for (const BpeMerge& merge : merges) {
    out += fmt::format("{}      {}", separator, quoted(name_of(merge.left) + " " + name_of(merge.right)));
    separator = ",\n";
  }
  out += "\n    ]\n  }\n}\n";
  return out;
}

}  // namespace harmonic
