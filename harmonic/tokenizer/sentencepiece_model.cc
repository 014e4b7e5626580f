#include "harmonic/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "harmonic/base/error.h"
#include "harmonic/base/utf8.h"
#include "harmonic/tokenizer/sentencepiece_bpe.h"
#include "harmonic/tokenizer/sentencepiece_json.h"

namespace harmonic {
namespace {

using Kind = SentencePieceVocabulary::Kind;

constexpr size_t kLongestFile = size_t{1} << 26;
constexpr size_t kMostPieces = size_t{1} << 24;
constexpr size_t kLongestPiece = 1024;  // bytes; SentencePiece itself stops at 16 characters

enum class Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct WireField {
  uint64_t number = 0;
  Wire wire = Wire::varint;
  uint64_t value = 0;      // of varint, fixed32 and fixed64
  std::string_view bytes;  // of bytes
};

// The fields of one message, in their order. Every length is checked before use.
class WireReader {
 public:
  WireReader(std::string_view message, std::string_view name, std::string_view source)
      : rest_(message), name_(name), source_(source) {}

  std::optional<WireField> next() {
    if (rest_.empty()) return {};
    const uint64_t key = varint();
    WireField field;
    field.number = key >> 3;
    field.wire = static_cast<Wire>(key & 7);
    if (field.number == 0 || field.number >= uint64_t{1} << 29) damaged("a field number out of range");
    switch (field.wire) {
      case Wire::varint:
        field.value = varint();
        break;
      case Wire::fixed64:
        field.value = fixed(8);
        break;
      case Wire::fixed32:
        field.value = fixed(4);
        break;
      case Wire::bytes: {
        const uint64_t length = varint();
        if (length > rest_.size())
          damaged(fmt::format("field {} claims {} bytes, of which {} are left", field.number, length,
                              rest_.size()));
        field.bytes = rest_.substr(0, static_cast<size_t>(length));
        rest_.remove_prefix(static_cast<size_t>(length));
        break;
      }
      default:
        damaged(fmt::format("field {} has the wire type {}", field.number, key & 7));
    }
    return field;
  }

  void expect(const WireField& field, Wire wire) const {
    if (field.wire != wire)
      damaged(fmt::format("field {} has the wire type {}; expected {}", field.number,
                          static_cast<int>(field.wire), static_cast<int>(wire)));
  }
  bool flag(const WireField& field) const {
    expect(field, Wire::varint);
    return field.value != 0;
  }
  int64_t integer(const WireField& field) const {
    expect(field, Wire::varint);
    return static_cast<int64_t>(field.value);
  }
  std::string_view text(const WireField& field) const {
    expect(field, Wire::bytes);
    return field.bytes;
  }

  [[noreturn]] void damaged(std::string_view found) const {
    fail("{}: not a sound SentencePiece model: in its {}, {}; get the file again", source_, name_, found);
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (rest_.empty()) damaged("a number is cut short");
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      if (shift == 63 && byte > 1) break;
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    damaged("a number has more than 64 bits");
  }
  uint64_t fixed(size_t size) {
    if (rest_.size() < size) damaged("a number is cut short");
    uint64_t value = 0;
    static_assert(std::endian::native == std::endian::little);
    std::memcpy(&value, rest_.data(), size);
    rest_.remove_prefix(size);
    return value;
  }

  std::string_view rest_, name_, source_;
};

// What the file says beside its pieces; the defaults are those of sentencepiece_model.proto.
struct Specification {
  int64_t model_type = 1, unknown = 0, bos = 1, eos = 2;
  bool byte_fallback = false, whitespace_as_suffix = false;
  bool dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  bool character_map = false;
};

void read_trainer(std::string_view message, std::string_view source, Specification& spec) {
  WireReader reader(message, "trainer_spec", source);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case 3:
        spec.model_type = reader.integer(*field);
        break;
      case 24:
        spec.whitespace_as_suffix = reader.flag(*field);
        break;
      case 35:
        spec.byte_fallback = reader.flag(*field);
        break;
      case 40:
        spec.unknown = reader.integer(*field);
        break;
      case 41:
        spec.bos = reader.integer(*field);
        break;
      case 42:
        spec.eos = reader.integer(*field);
        break;
      default:
        break;
    }
  }
}

void read_normalizer(std::string_view message, std::string_view source, Specification& spec) {
  WireReader reader(message, "normalizer_spec", source);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case 2:
        spec.character_map |= !reader.text(*field).empty();
        break;
      case 3:
        spec.dummy_prefix = reader.flag(*field);
        break;
      case 4:
        spec.remove_extra_whitespaces = reader.flag(*field);
        break;
      case 5:
        spec.escape_whitespaces = reader.flag(*field);
        break;
      default:
        break;
    }
  }
}

void read_piece(std::string_view message, std::string_view source, SentencePieceVocabulary& vocabulary,
                std::vector<float>& scores) {
  const size_t id = vocabulary.tokens.size();
  const std::string name = fmt::format("piece {}", id);
  WireReader reader(message, name, source);
  std::string_view piece;
  float score = 0;
  int64_t type = 1;
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      piece = reader.text(*field);
    } else if (field->number == 2) {
      reader.expect(*field, Wire::fixed32);
      score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    } else if (field->number == 3) {
      type = reader.integer(*field);
    }
  }
  if (piece.empty() || piece.size() > kLongestPiece || !is_utf8(piece))
    reader.damaged(
        fmt::format("a text of {} bytes was found; expected UTF-8 of 1 to {}", piece.size(), kLongestPiece));
  if (!std::isfinite(score)) reader.damaged("a score that is not finite");
  switch (type) {
    case 1:  // NORMAL
      if (piece.find(' ') != piece.npos) reader.damaged("a space, which SentencePiece writes U+2581");
      vocabulary.tokens.push_back(without_markers(piece));
      vocabulary.kinds.push_back(Kind::text);
      break;
    case 2:  // UNKNOWN
    case 3:  // CONTROL
      if (type == 2) vocabulary.unknown = static_cast<int32_t>(id);
      vocabulary.tokens.emplace_back(piece);
      vocabulary.kinds.push_back(Kind::special);
      break;
    case 6: {  // BYTE
      const int byte = byte_of_name(piece);
      if (byte < 0) reader.damaged("a name that is no byte's; expected <0x00> to <0xFF>");
      vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
      vocabulary.kinds.push_back(Kind::byte);
      break;
    }
    default:
      fail("{}: piece {} has the type {}; only NORMAL, UNKNOWN, CONTROL and BYTE (1, 2, 3, 6) are supported",
           source, id, type);
  }
  scores.push_back(score);
}

void check_supported(const Specification& spec, std::string_view source) {
  const auto refuse = [&](std::string_view what, std::string_view supported) {
    fail("{}: {} is not supported; only {} is", source, what, supported);
  };
  if (spec.model_type != 2) refuse(fmt::format("model_type = {}", spec.model_type), "BPE (2)");
  if (!spec.byte_fallback) refuse("byte_fallback = false", "true");
  if (spec.whitespace_as_suffix) refuse("treat_whitespace_as_suffix = true", "false");
  if (spec.character_map) refuse("a precompiled_charsmap", "the normaliser \"identity\"");
  if (spec.remove_extra_whitespaces) refuse("remove_extra_whitespaces = true", "false");
  if (!spec.escape_whitespaces) refuse("escape_whitespaces = false", "true");
}

}  // namespace

std::unique_ptr<Tokenizer> read_sentencepiece_model(std::string_view content, std::string_view source) {
  if (content.size() > kLongestFile)
    fail("{}: {} bytes, more than the {} that a SentencePiece model may have", source, content.size(),
         kLongestFile);
  SentencePieceVocabulary vocabulary;
  std::vector<float> scores;
  Specification spec;
  WireReader reader(content, "model", source);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case 1:
        if (scores.size() == kMostPieces) reader.damaged(fmt::format("more than {} pieces", kMostPieces));
        read_piece(reader.text(*field), source, vocabulary, scores);
        break;
      case 2:
        read_trainer(reader.text(*field), source, spec);
        break;
      case 3:
        read_normalizer(reader.text(*field), source, spec);
        break;
      default:
        break;
    }
  }
  if (scores.empty()) reader.damaged("no piece; expected a vocabulary");
  check_supported(spec, source);
  vocabulary.leading_space = spec.dummy_prefix;
  vocabulary.merges = merges_from_scores(vocabulary, scores, source);
  auto tokenizer = make_sentencepiece_tokenizer(std::move(vocabulary), source);
  if (tokenizer->bos() != spec.bos || tokenizer->eot() != spec.eos)
    fail("{}: its tokens {} and {} begin and end a text; expected those named <s> and </s>, {} and {}",
         source, spec.bos, spec.eos, tokenizer->bos(), tokenizer->eot());
  return tokenizer;
}

}  // namespace harmonic
