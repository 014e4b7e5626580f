// Hugging Face's tokenizer.json, of the byte-level BPE kind, and GPT-2's own pair of files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "harmonic/tokenizer/bpe.h"

namespace harmonic {

// Reads the content of a tokenizer.json; `source` names it in errors. Throws Error for anything malformed,
// and for what would change the tokens and is not supported, by name: other models, normalizers, other
// pre-tokenizers.
std::unique_ptr<Tokenizer> read_tokenizer_json(std::string_view content, std::string_view source);

// The tokenizer of a vocabulary whose names are written in GPT-2's alphabet (byte_alphabet.h). Throws Error,
// naming `source`.
struct NamedVocabulary;
std::unique_ptr<Tokenizer> make_byte_level_tokenizer(NamedVocabulary named, Splitting splitting,
                                                     std::string_view source);

// The content of a tokenizer.json. The vocabulary is taken as it is; special tokens are listed as such.
std::string write_tokenizer_json(const BpeVocabulary& vocabulary);

// Reads GPT-2's files: a JSON object from token to id, and a list of merges, one a line, best first.
std::unique_ptr<Tokenizer> read_gpt2_files(const std::filesystem::path& encoder,
                                           const std::filesystem::path& merges);

}  // namespace harmonic
