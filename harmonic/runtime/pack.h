// Lossless compression: a model's predictions, which are the same bits everywhere, as the probabilities of an
// arithmetic coder. Any bytes; the better the model knows their kind, the fewer are left.
//
// A file is a header, blocks, each of which stands by itself, and an index (docs/formats.md).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "harmonic/model/inference.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

class Packer {
 public:
  static constexpr int64_t kMostBlockBytes = 1 << 20;

  // `identity`: identity_of() the model. `block_bytes`, of the source: the model begins anew with each, and
  // each can be unpacked by itself. All must outlive it. Not thread-safe.
  Packer(Inference& inference, const Tokenizer& tokenizer, std::string identity,
         int64_t block_bytes = 256 << 10)
      : inference_(inference),
        tokenizer_(tokenizer),
        identity_(std::move(identity)),
        block_bytes_(block_bytes) {
    HARMONIC_ASSERT(block_bytes > 0 && block_bytes <= kMostBlockBytes);
  }

  using Read = std::function<std::string(int64_t most)>;  // the next bytes; fewer than asked for at the end
  using Write = std::function<void(std::string_view)>;
  struct Sizes {
    int64_t source = 0, packed = 0;
  };
  // Reads to the end and writes a packed file. Throws Error where reading or writing does.
  Sizes pack(const Read& read, const Write& write);
  // The other way. Throws Error, naming `source`, for what is damaged, cut or was packed with another model;
  // everything that was written until then is right.
  Sizes unpack(const Read& read, const Write& write, const std::string& source);

  using ReadAt = std::function<std::string(int64_t offset, int64_t most)>;
  // `count` bytes of what was packed, from byte `from` on, or as many as there are: only the blocks that hold
  // them are unpacked, which the index at the end of the file finds. `packed_bytes`: of the whole file.
  // Throws Error as unpack() does, and where `from` lies beyond the end.
  Sizes unpack_range(const ReadAt& read_at, int64_t packed_bytes, int64_t from, int64_t count,
                     const Write& write, const std::string& source);

 private:
  struct Block;
  std::string coded(const std::vector<int32_t>& tokens);
  void decode(std::vector<Block>& blocks, const std::string& source);
  static void check(const std::vector<Block>& blocks, const std::string& source);
  bool fits(const std::vector<int32_t>& tokens, std::string_view bytes) const;

  Inference& inference_;
  const Tokenizer& tokenizer_;
  const std::string identity_;
  const int64_t block_bytes_;
};

}  // namespace harmonic
