#include "harmonic/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/tokenizer/byte_alphabet.h"

namespace harmonic {
namespace {

// Not the ordered kind of base/json.h: its objects are searched from end to end, and a vocabulary has 50,000
// keys.
using Json = nlohmann::json;

constexpr int64_t max_file_bytes = int64_t{1} << 28;
constexpr int64_t max_vocab_size = int64_t{1} << 24;
constexpr int max_depth = 16;
constexpr std::string_view gpt2_eot = "<|endoftext|>";

Json parse(std::string_view content, std::string_view source) {
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > max_depth) fail("{}: JSON nested deeper than {} levels", source, max_depth);
    return true;
  };
  try {
    return Json::parse(content.begin(), content.end(), watch);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}", source, error.what());
  }
}

// The member of an object, or null.
const Json& member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

// A short form of what was found, for an error message.
std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// The names and ids of a file, in whatever order they come, checked as a whole by finish().
class VocabularyBuilder {
 public:
  explicit VocabularyBuilder(std::string_view source) : source_(source) {}

  void add_special(const std::string& name, const Json& id) {
    if (!specials_.emplace(read_id(name, id), name).second)
      fail("{}: two added tokens have the id {}", source_, shown(id));
  }

  // `vocabulary`, which must outlive this, is an object from names to ids.
  void add_vocabulary(const Json& vocabulary) {
    if (!vocabulary.is_object() || vocabulary.empty())
      fail("{}: expected the vocabulary as an object from token to id, found {}", source_, shown(vocabulary));
    ids_.reserve(vocabulary.size());
    for (auto token = vocabulary.begin(); token != vocabulary.end(); ++token)
      ids_.emplace(token.key(), read_id(token.key(), token.value()));
  }

  // A name of the vocabulary that is special even where no list of added tokens says so.
  void make_special(std::string_view name) {
    const auto found = ids_.find(name);
    if (found != ids_.end()) specials_.emplace(found->second, name);
  }

  void add_merge(std::string_view left, std::string_view right) {
    joined_.assign(left);
    joined_ += right;
    merges_.push_back({id_of(left), id_of(right), id_of(joined_)});
  }

  std::unique_ptr<Tokenizer> finish();

 private:
  int32_t read_id(std::string_view name, const Json& id) const {
    if (!id.is_number_integer() || id < 0 || id >= max_vocab_size)
      fail("{}: expected the id of token {} as an integer from 0 to {}, found {}", source_, shown(name),
           max_vocab_size - 1, shown(id));
    return id.get<int32_t>();
  }
  int32_t id_of(std::string_view name) const {
    const auto found = ids_.find(name);
    if (found == ids_.end())
      fail("{}: merge {} names the token {}, which is not in the vocabulary", source_, merges_.size(),
           shown(name));
    return found->second;
  }
  int32_t choose_eot() const;
  bool is_bytes(const BpeVocabulary& vocabulary) const;

  std::string source_, joined_;
  std::unordered_map<std::string_view, int32_t> ids_;
  std::map<int32_t, std::string> specials_;
  std::vector<BpeMerge> merges_;
};

std::unique_ptr<Tokenizer> VocabularyBuilder::finish() {
  int32_t last = specials_.empty() ? -1 : specials_.rbegin()->first;
  for (const auto& [name, id] : ids_) last = std::max(last, id);
  const size_t size = static_cast<size_t>(last) + 1;
  // Ids without a hole are as many as there are tokens, give or take the specials that are listed twice.
  if (size > ids_.size() + specials_.size())
    fail("{}: {} tokens have ids up to {}; ids must be 0, 1, 2, ... without a hole", source_,
         ids_.size() + specials_.size(), last);

  BpeVocabulary vocabulary;
  vocabulary.tokens.resize(size);
  vocabulary.special.assign(size, false);
  std::vector<bool> taken(size, false);
  for (const auto& [id, name] : specials_) {
    const auto found = ids_.find(name);
    if (found != ids_.end() && found->second != id)
      fail("{}: token {} has the id {} in the vocabulary and {} as an added token", source_, shown(name),
           found->second, id);
    const size_t at = static_cast<size_t>(id);
    vocabulary.tokens[at] = name;
    vocabulary.special[at] = true;
    taken[at] = true;
  }
  for (const auto& [name, id] : ids_) {
    const size_t at = static_cast<size_t>(id);
    if (vocabulary.special[at] && vocabulary.tokens[at] == name) continue;
    if (taken[at]) fail("{}: two tokens have the id {}, one of them {}", source_, id, shown(name));
    taken[at] = true;
    std::optional<std::string> bytes = from_alphabet(name);
    if (!bytes)
      fail("{}: token {} ({}) is neither a special token nor written in the alphabet of byte-level BPE",
           source_, id, shown(name));
    vocabulary.tokens[at] = std::move(*bytes);
  }
  const auto hole = std::find(taken.begin(), taken.end(), false);
  if (hole != taken.end())
    fail("{}: no token has the id {}; ids must be 0, 1, 2, ... without a hole", source_,
         hole - taken.begin());

  vocabulary.merges = std::move(merges_);
  if (is_bytes(vocabulary)) return make_byte_tokenizer();
  vocabulary.eot = choose_eot();
  return make_bpe_tokenizer(std::move(vocabulary), source_);
}

// What write_tokenizer_json makes of the byte tokenizer.
bool VocabularyBuilder::is_bytes(const BpeVocabulary& vocabulary) const {
  if (vocabulary.tokens.size() != 256 || !vocabulary.merges.empty() || !specials_.empty()) return false;
  for (size_t byte = 0; byte < 256; ++byte)
    if (vocabulary.tokens[byte] != std::string(1, static_cast<char>(byte))) return false;
  return true;
}

int32_t VocabularyBuilder::choose_eot() const {
  for (const std::string_view wanted : {gpt2_eot, std::string_view("</s>")})
    for (const auto& [id, name] : specials_)
      if (name == wanted) return id;
  if (specials_.size() != 1)
    fail(
        "{}: cannot tell which token ends a text: expected a special token {} or </s>, or only one special "
        "token, "
        "found {}",
        source_, gpt2_eot, specials_.size());
  return specials_.begin()->first;
}

// Checks that a part of the file is absent or of the one supported type.
void require_type(const Json& part, const char* name, std::string_view supported, std::string_view source) {
  if (part.is_null()) return;
  const Json& type = part.is_object() ? member(part, "type") : part;
  if (!type.is_string() || type != supported)
    fail("{}: the {} {} is not supported; only {} is", source, name, shown(type), supported);
}

void require_flag(const Json& part, const char* key, bool supported, bool absent, std::string_view source) {
  const Json& flag = member(part, key);
  const bool value = flag.is_boolean() ? flag.get<bool>() : absent;
  if ((!flag.is_null() && !flag.is_boolean()) || value != supported)
    fail("{}: {} = {} is not supported; only {} is", source, key,
         flag.is_null() ? fmt::to_string(absent) : shown(flag), supported);
}

// Padding, truncation and the post-processor are not read: they wrap tokens and do not change them.
void check_supported(const Json& file, const Json& model, std::string_view source) {
  const Json& normalizer = member(file, "normalizer");
  if (!normalizer.is_null())
    fail("{}: the normalizer {} is not supported; only null is", source,
         shown(normalizer.is_object() ? member(normalizer, "type") : normalizer));
  const Json& splitter = member(file, "pre_tokenizer");
  if (splitter.is_null()) fail("{}: no pre_tokenizer; only ByteLevel is supported", source);
  require_type(splitter, "pre_tokenizer", "ByteLevel", source);
  require_flag(splitter, "add_prefix_space", false, true, source);
  require_flag(splitter, "use_regex", true, true, source);
  require_type(member(file, "decoder"), "decoder", "ByteLevel", source);

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

void read_merges(const Json& merges, VocabularyBuilder& builder, std::string_view source) {
  if (!merges.is_array()) fail("{}: expected merges as an array, found {}", source, shown(merges));
  if (static_cast<int64_t>(merges.size()) > max_vocab_size)
    fail("{}: {} merges, more than the {} allowed", source, merges.size(), max_vocab_size);
  for (const Json& merge : merges) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      builder.add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
      continue;
    }
    const std::string_view line =
        merge.is_string() ? merge.get_ref<const std::string&>() : std::string_view();
    const size_t blank = line.find(' ');
    if (blank == line.npos || line.find(' ', blank + 1) != line.npos)
      fail("{}: expected each merge as \"left right\" or [\"left\", \"right\"], found {}", source,
           shown(merge));
    builder.add_merge(line.substr(0, blank), line.substr(blank + 1));
  }
}

void read_added_tokens(const Json& added, VocabularyBuilder& builder, std::string_view source) {
  if (added.is_null()) return;
  if (!added.is_array()) fail("{}: expected added_tokens as an array, found {}", source, shown(added));
  for (const Json& token : added) {
    const Json& content = token.is_object() ? member(token, "content") : Json();
    if (!content.is_string() || content == "")
      fail("{}: expected an added token as an object with its content, found {}", source, shown(token));
    const Json& special = member(token, "special");
    if (special != true)
      fail("{}: the added token {} with special = {} is not supported; only special tokens are", source,
           shown(content), shown(special));
    builder.add_special(content.get<std::string>(), member(token, "id"));
  }
}

}  // namespace

std::unique_ptr<Tokenizer> read_tokenizer_json(std::string_view content, std::string_view source) {
  if (static_cast<int64_t>(content.size()) > max_file_bytes)
    fail("{}: {} bytes, more than the {} that a tokenizer may have", source, content.size(), max_file_bytes);
  const Json file = parse(content, source);
  const Json& model = file.is_object() ? member(file, "model") : file;
  if (!file.is_object() || !model.is_object())
    fail("{}: expected an object with a model, as in Hugging Face's tokenizer.json, found {}", source,
         shown(model));
  check_supported(file, model, source);
  VocabularyBuilder builder(source);
  read_added_tokens(member(file, "added_tokens"), builder, source);
  builder.add_vocabulary(member(model, "vocab"));
  builder.make_special(gpt2_eot);
  read_merges(member(model, "merges"), builder, source);
  return builder.finish();
}

std::unique_ptr<Tokenizer> read_gpt2_files(const std::filesystem::path& encoder,
                                           const std::filesystem::path& merges) {
  const Json vocabulary = parse(read_file(encoder, max_file_bytes), encoder.string());
  VocabularyBuilder builder(encoder.string() + " with " + merges.filename().string());
  builder.add_vocabulary(vocabulary);
  builder.make_special(gpt2_eot);

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
  return builder.finish();
}

std::string write_tokenizer_json(const BpeVocabulary& vocabulary) {
  const auto name = [&](int32_t id) {
    const std::string& token = vocabulary.tokens[static_cast<size_t>(id)];
    return vocabulary.special[static_cast<size_t>(id)] ? token : to_alphabet(token);
  };
  const auto quoted = [](const std::string& text) { return Json(text).dump(); };
  const int32_t size = static_cast<int32_t>(vocabulary.tokens.size());

  std::string out =
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n";
  for (int32_t id = 0; id < size; ++id) {
    if (!vocabulary.special[static_cast<size_t>(id)]) continue;
    out += fmt::format(
        "{}    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
        "\"normalized\": false, \"special\": true}}",
        separator, id, quoted(name(id)));
    separator = ",\n";
  }
  out += "],\n  \"normalizer\": null,\n";
  for (const char* part : {"pre_tokenizer", "post_processor", "decoder"})
    out += fmt::format(
        "  \"{}\": {{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
        "\"use_regex\": true}},\n",
        part);
  out +=
      "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": "
      "false,\n"
      "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  separator = "\n";
  for (int32_t id = 0; id < size; ++id) {
    out += fmt::format("{}      {}: {}", separator, quoted(name(id)), id);
    separator = ",\n";
  }
  out += "\n    },\n    \"merges\": [";
  separator = "\n";
  for (const BpeMerge& merge : vocabulary.merges) {
    out += fmt::format("{}      {}", separator, quoted(name(merge.left) + " " + name(merge.right)));
    separator = ",\n";
  }
  out += "\n    ]\n  }\n}\n";
  return out;
}

}  // namespace harmonic
