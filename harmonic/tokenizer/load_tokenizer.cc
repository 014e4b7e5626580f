#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/tokenizer/sentencepiece_model.h"
#include "harmonic/tokenizer/tokenizer.h"
#include "harmonic/tokenizer/tokenizer_json.h"

namespace harmonic {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  if (path == "bytes") return make_byte_tokenizer();
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    fail(
        "{}: no such tokenizer; expected \"bytes\", a tokenizer.json, a tokenizer.model, or a folder with "
        "one "
        "or with GPT-2's encoder.json and vocab.bpe",
        path.string());
  if (!fs::is_directory(path, ignored))
    return path.extension() == ".model" ? read_sentencepiece_model(read_file(path), path.string())
                                        : read_tokenizer_json(read_file(path), path.string());

  if (fs::exists(path / "tokenizer.json", ignored))
    return read_tokenizer_json(read_file(path / "tokenizer.json"), (path / "tokenizer.json").string());
  if (fs::exists(path / "tokenizer.model", ignored))
    return read_sentencepiece_model(read_file(path / "tokenizer.model"), (path / "tokenizer.model").string());
  // OpenAI's names, then those of the same files at Hugging Face.
  const std::pair<const char*, const char*> pairs[] = {{"encoder.json", "vocab.bpe"},
                                                       {"vocab.json", "merges.txt"}};
  for (const auto& [encoder, merges] : pairs)
    if (fs::exists(path / encoder, ignored) && fs::exists(path / merges, ignored))
      return read_gpt2_files(path / encoder, path / merges);
  fail(
      "{}: the folder holds no tokenizer: expected tokenizer.json, tokenizer.model, or encoder.json and "
      "vocab.bpe",
      path.string());
}

}  // namespace harmonic
