// GGUF files, version 3 (ggml-org/ggml, docs/gguf.md): named values, then named tensors, in one file.
//
// Format, little-endian: "GGUF", u32 version, u64 tensors, u64 values; of each value a text (u64 length,
// bytes) as its key, a u32 type, and the value; of each tensor its name, u32 dimensions, u64 of each
// (innermost first), u32 type, u64 offset; then, from a multiple of general.alignment (32 where it is
// missing) on, the tensors, each at such a multiple.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "harmonic/base/files.h"
#include "harmonic/convert/gguf_blocks.h"

namespace harmonic {

// All of one type; floats are f32 widened.
using GgufList =
    std::variant<std::vector<int64_t>, std::vector<double>, std::vector<bool>, std::vector<std::string_view>>;
using GgufValue = std::variant<int64_t, double, bool, std::string_view, GgufList>;

struct GgufTensor {
  const GgufType* type = nullptr;
  std::vector<int64_t> shape;  // outermost first; the last is a multiple of the type's block
  int64_t size = 1;            // numbers
  std::span<const uint8_t> bytes;
};

// A file, mapped and checked whole: every count, length, type, shape and offset. Texts and tensors point into
// the map. Immutable; const members may be called from several threads.
class GgufFile {
 public:
  // Throws Error naming the file, what was expected and what was found.
  explicit GgufFile(const std::filesystem::path& path);

  static bool is_one(std::span<const uint8_t> beginning);

  const std::string& name() const { return name_; }
  const std::map<std::string_view, GgufValue>& values() const { return values_; }
  const std::map<std::string_view, GgufTensor>& tensors() const { return tensors_; }
  // Says that a tensor's bytes have been read (MappedFile::release).
  void release(const GgufTensor& tensor) const { file_.release(tensor.bytes); }

 private:
  std::string name_;
  MappedFile file_;
  std::map<std::string_view, GgufValue> values_;
  std::map<std::string_view, GgufTensor> tensors_;
};

}  // namespace harmonic
