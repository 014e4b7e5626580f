// Safetensors files: named tensors behind a JSON header, as the Hugging Face library writes and reads them.
//
// Format: u64 little-endian length of the header; the header, a JSON object of name -> {dtype, shape,
// data_offsets}, and "__metadata__", an object of texts; then the tensors' bytes, which the offsets cover
// without gap or overlap.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/base/files.h"

namespace harmonic {

enum class StoredType : uint8_t { f64, f32, bf16, f16, i64, i32, i8, u8 };
std::string_view name_of(StoredType type);  // as in the files: "BF16"
int64_t size_of(StoredType type);           // bytes an element

struct StoredTensor {
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;      // outermost first; empty is a single number
  int64_t size = 1;                // elements
  std::span<const uint8_t> bytes;  // little-endian, of any alignment; lives as long as the file's object
};

using Metadata = std::map<std::string, std::string>;

// A file, mapped and checked whole: every name, type, shape and offset. Immutable; const members may be
// called from several threads. Changing the file on disk while it is open is the caller's mistake.
class SafetensorsFile {
 public:
  // Throws Error naming the file, what was expected and what was found.
  explicit SafetensorsFile(const std::filesystem::path& path,
                           MappedFile::Access access = MappedFile::Access::read);
  // The bytes of such a file, which outlive this; `name` is theirs in errors.
  SafetensorsFile(const std::string& name, std::span<const uint8_t> bytes);

  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const Metadata& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }

  // Throws Error with the nearest name when there is none.
  const StoredTensor& at(std::string_view name) const;
  // The same, of exactly this shape, as `size` floats into `out`: f64, bf16 and f16 are converted, integers
  // refused.
  void read(std::string_view name, std::span<const int64_t> shape, float* out) const;
  // Says that a tensor's bytes have been read (MappedFile::release).
  void release(const StoredTensor& tensor) const { file_.release(tensor.bytes); }

 private:
  void read_head(std::span<const uint8_t> bytes);

  std::filesystem::path path_;
  MappedFile file_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
  Metadata metadata_;
};

struct SafetensorsEntry {
  std::string name;  // not "__metadata__", none twice
  StoredType type = StoredType::f32;
  std::vector<int64_t> shape;
};
// What stands in a file before the tensors' bytes, which lie in the order of `entries`, and how many those
// are. "format": "pt" is added to the metadata when it is missing, as the Hugging Face library wants it.
// Throws Error, naming `name`.
struct SafetensorsHead {
  std::string text;
  int64_t data_bytes = 0;
};
SafetensorsHead safetensors_head(const std::string& name, const std::vector<SafetensorsEntry>& entries,
                                 Metadata metadata = {});

// Writes a file tensor by tensor; it appears under its name when commit() has returned. Not thread-safe.
class SafetensorsWriter {
 public:
  using Entry = SafetensorsEntry;
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<Entry>& entries,
                    Metadata metadata = {});

  // The next bytes of the tensors, in order, in pieces of any size.
  void append(const void* data, int64_t size);
  // Throws Error when bytes are missing.
  void commit();

 private:
  AtomicFile file_;
  std::string name_;
  int64_t expected_ = 0, written_ = 0;
};

}  // namespace harmonic
