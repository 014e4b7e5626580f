#include "harmonic/convert/llama2c.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/utf8.h"
#include "harmonic/tokenizer/sentencepiece_bpe.h"
#include "harmonic/tokenizer/sentencepiece_json.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as they lie");

constexpr int64_t kHeaderNumbers = 7, kHeaderBytes = 4 * kHeaderNumbers;
constexpr uint32_t kLaterMagic = 0x616b3432;  // "ak42": versions 1 and 2
constexpr int64_t kLongestToken = 1024;       // bytes
constexpr int64_t kLongestTokenizer = int64_t{1} << 26;

int32_t number_at(std::span<const uint8_t> bytes, int64_t index) {
  int32_t number;
  std::memcpy(&number, bytes.data() + 4 * index, 4);
  return number;
}

LlamaShape read_header(std::span<const uint8_t> file, const std::string& name) {
  const auto size = static_cast<int64_t>(file.size());
  if (size < kHeaderBytes)
    fail("{}: {} bytes; a llama2.c checkpoint begins with a header of {}: cut short, or another kind of file",
         name, size, kHeaderBytes);
  const auto magic = static_cast<uint32_t>(number_at(file, 0));
  if (magic == kLaterMagic)
    fail(
        "{}: a llama2.c checkpoint of version {}; only the legacy format, version 0, is read: export it "
        "again "
        "with --version 0",
        name, number_at(file, 1));
  static constexpr const char* kNames[kHeaderNumbers] = {
      "width", "feed-forward width", "layers", "heads", "key-value heads", "vocabulary", "context"};
  static constexpr int64_t kMost[kHeaderNumbers] = {1 << 20, 1 << 26, 4096, 65536, 65536, 1 << 24, 1 << 30};
  int64_t numbers[kHeaderNumbers];
  for (int64_t i = 0; i < kHeaderNumbers; ++i) {
    numbers[i] = number_at(file, i);
    const int64_t found = i == 5 ? std::abs(numbers[i]) : numbers[i];
    if (found < 1 || found > kMost[i])
      fail(
          "{}: neither a GGUF file nor a llama2.c checkpoint, whose {} would be {}, not 1 to {}; expected "
          "one "
          "of these or a Hugging Face folder",
          name, kNames[i], numbers[i], kMost[i]);
  }
  LlamaShape shape;
  shape.width = numbers[0];
  shape.ffn_width = numbers[1];
  shape.layers = numbers[2];
  shape.heads = numbers[3];
  shape.kv_heads = numbers[4];
  shape.tied = numbers[5] > 0;
  shape.vocab_size = std::abs(numbers[5]);
  shape.context = numbers[6];
  if (shape.width % shape.heads != 0 || shape.head_width() % 2 != 0 || shape.heads % shape.kv_heads != 0)
    fail("{}: not a llama2.c checkpoint: {} heads and {} key-value heads in a width of {}", name, shape.heads,
         shape.kv_heads, shape.width);
  return shape;
}

// Where each tensor lies, in numbers from the end of the header.
class Layout {
 public:
  Layout(const LlamaShape& shape, const std::string& name) : name_(name), layers_(shape.layers) {
    const int64_t w = shape.width, f = shape.ffn_width, kv = shape.kv_width();
    add("embed.weight", shape.vocab_size, w);
    add_layers("mixer_norm", 1, w);
    add_layers("mixer.q_proj", w, w);
    add_layers("mixer.k_proj", kv, w);
    add_layers("mixer.v_proj", kv, w);
    add_layers("mixer.o_proj", w, w);
    add_layers("ffn_norm", 1, w);
    add_layers("ffn.gate", f, w);
    add_layers("ffn.down", w, f);
    add_layers("ffn.up", f, w);
    add("final_norm.weight", 1, w);
    skip(shape.context, shape.head_width());  // cosines and sines
    if (!shape.tied) add("head.weight", shape.vocab_size, w);
  }
  int64_t at(const std::string& tensor) const { return offsets_.at(tensor); }
  int64_t numbers() const { return end_; }

 private:
  void skip(int64_t rows, int64_t columns) {
    const std::string what = name_ + ": size";
    end_ = checked_add(end_, checked_mul(rows, columns, what), what);
  }
  void add(std::string tensor, int64_t rows, int64_t columns) {
    offsets_.emplace(std::move(tensor), end_);
    skip(rows, columns);
  }
  void add_layers(const char* tensor, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < layers_; ++i) add(fmt::format("layers.{}.{}.weight", i, tensor), rows, columns);
  }

  std::string name_;
  int64_t layers_, end_ = 0;
  std::map<std::string, int64_t> offsets_;
};

std::unique_ptr<Tokenizer> find_tokenizer(const fs::path& checkpoint, const fs::path& given,
                                          int64_t vocab_size) {
  const auto read = [](const fs::path& path) {
    if (path.extension() == ".bin")
      return read_llama2c_tokenizer(read_file(path, kLongestTokenizer), path.string());
    return load_tokenizer(path);
  };
  if (!given.empty()) return read(given);
  const std::string own = fmt::format("tok{}.bin", vocab_size);
  for (const std::string& name : {own, std::string("tokenizer.bin")})
    if (const fs::path path = checkpoint.parent_path() / name; is_there(path)) return read(path);
  fail("{}: neither {} nor tokenizer.bin is beside it; name its tokenizer with --tokenizer FILE",
       checkpoint.string(), own);
}

}  // namespace

PretrainedModel read_llama2c(const fs::path& checkpoint, const fs::path& tokenizer, const Backend& backend) {
  const std::string name = checkpoint.string();
  const MappedFile file(checkpoint);
  PretrainedModel pretrained;
  pretrained.source = "a llama2.c checkpoint";
  pretrained.shape = read_header(file.bytes(), name);
  const LlamaShape& shape = pretrained.shape;
  const Layout layout(shape, name);
  const int64_t expected = checked_add(kHeaderBytes, checked_mul(layout.numbers(), 4, name), name);
  const auto size = static_cast<int64_t>(file.bytes().size());
  if (size != expected)
    fail("{}: {} bytes; its header (width {}, {} layers, vocabulary {}) asks for {}: {}", name, size,
         shape.width, shape.layers, shape.vocab_size, expected,
         size < expected ? "it was cut short, or is no llama2.c checkpoint" : "it is no llama2.c checkpoint");
  pretrained.loaded.tokenizer = find_tokenizer(checkpoint, tokenizer, shape.vocab_size);
  const ModelConfig config = config_of(shape, *pretrained.loaded.tokenizer, name);
  fill_model(pretrained, config, backend, [&](const LlamaTensor& tensor, float* numbers) {
    std::memcpy(numbers, file.bytes().data() + kHeaderBytes + 4 * layout.at(tensor.name),
                static_cast<size_t>(tensor.size()) * sizeof(float));
    check_finite(tensor.name, {numbers, static_cast<size_t>(tensor.size())}, name);
    if (tensor.is_rotated())
      take_pairs_apart(tensor, shape.head_width(), tensor.columns() * int64_t{sizeof(float)}, numbers);
  });
  return pretrained;
}

std::unique_ptr<Tokenizer> read_llama2c_tokenizer(std::string_view content, std::string_view source) {
  using Kind = SentencePieceVocabulary::Kind;
  const auto damaged = [&](std::string_view found) {
    fail("{}: not a llama2.c tokenizer: {}; name the right file with --tokenizer FILE", source, found);
  };
  const auto take = [&](size_t size, std::string_view what) {
    if (content.size() < size)
      damaged(fmt::format("{} takes {} bytes, {} are left", what, size, content.size()));
    const std::string_view bytes = content.substr(0, size);
    content.remove_prefix(size);
    return bytes;
  };
  const auto take_number = [&](std::string_view what) {
    int32_t number;
    std::memcpy(&number, take(4, what).data(), 4);
    return number;
  };
  const int32_t longest = take_number("the length of the longest token");
  if (longest < 1 || longest > kLongestToken)
    damaged(fmt::format("its longest token has {} bytes; expected 1 to {}", longest, kLongestToken));
  SentencePieceVocabulary vocabulary;
  std::vector<float> scores;
  while (!content.empty()) {
    const size_t id = scores.size();
    const std::string what = fmt::format("token {}", id);
    const auto score = std::bit_cast<float>(take_number(what));
    const int32_t length = take_number(what);
    // The longest is that of SentencePiece's own names, without the line breaks that llama2.c puts around
    // two.
    if (length < 1 || length > kLongestToken)
      damaged(fmt::format("{} has {} bytes; expected 1 to {}", what, length, kLongestToken));
    if (!std::isfinite(score)) damaged(what + " has a score that is not finite");
    const std::string_view text = take(static_cast<size_t>(length), what);
    if (!is_utf8(text)) damaged(what + " is no UTF-8");
    const int byte = byte_of_name(text);
    if (id == 0) {
      if (text != "<unk>") damaged(fmt::format("token 0 is \"{}\"; expected <unk>", text));
      vocabulary.unknown = 0;
      vocabulary.tokens.emplace_back(text);
      vocabulary.kinds.push_back(Kind::special);
    } else if (id == 1) {
      if (text != "\n<s>\n" && text != "<s>") damaged(fmt::format("token 1 is \"{}\"; expected <s>", text));
      vocabulary.tokens.emplace_back("<s>");
      vocabulary.kinds.push_back(Kind::special);
    } else if (byte >= 0) {
      vocabulary.tokens.emplace_back(1, static_cast<char>(byte));
      vocabulary.kinds.push_back(Kind::byte);
    } else {
      vocabulary.tokens.emplace_back(text);
      vocabulary.kinds.push_back(Kind::text);
    }
    scores.push_back(score);
  }
  vocabulary.merges = merges_from_scores(vocabulary, scores, source);
  return make_sentencepiece_tokenizer(std::move(vocabulary), source);
}

}  // namespace harmonic
