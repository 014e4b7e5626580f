#include "harmonic/convert/convert.h"

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/convert/gguf.h"
#include "harmonic/convert/gguf_file.h"
#include "harmonic/convert/hugging_face.h"
#include "harmonic/convert/llama2c.h"

namespace harmonic {

PretrainedModel read_pretrained(const std::filesystem::path& from, const std::filesystem::path& tokenizer,
                                const Backend& backend) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!is_there(from))
    fail("{}: no such file or folder; expected a Hugging Face folder, a GGUF file or a llama2.c checkpoint",
         from.string());
  if (fs::is_directory(from, ignored)) {
    if (!is_there(from / "config.json"))
      fail(
          "{}: holds no config.json; expected a Hugging Face folder, or name the file of a GGUF model or a "
          "llama2.c checkpoint",
          from.string());
    return read_hugging_face(from, tokenizer, backend);
  }
  const std::string name = from.filename().string();
  if (name == "config.json" || from.extension() == ".safetensors")
    fail("{}: is a file of a Hugging Face folder; name the folder", from.string());
  if (GgufFile::is_one(MappedFile(from).bytes())) return read_gguf(from, {tokenizer}, backend);
  return read_llama2c(from, tokenizer, backend);
}

}  // namespace harmonic
