// States of texts' beginnings, so that what many prompts begin with is read once.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "harmonic/runtime/text_point.h"

namespace harmonic {

// Keyed by the tokens from a document's beginning, at any length, and by owner: nobody's text can be guessed
// from how fast another's is read. A state found is the one that reading gives, to the bit. Bounded; what was
// not used for longest goes first. Any thread may call.
class PrefixCache {
 public:
  explicit PrefixCache(int64_t bytes);

  struct Hit {
    int64_t tokens;  // that the state has read: the longest beginning known, up to all
    std::shared_ptr<const TextPoint> point;
  };
  std::optional<Hit> find(const std::string& owner, std::span<const int32_t> tokens);
  // `point` is where a document stands after exactly these tokens. Dropped where it would not fit.
  void insert(const std::string& owner, std::span<const int32_t> tokens, TextPoint point);

  int64_t bytes() const;
  int64_t entries() const;

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Entry {
    uint64_t quick;
    Digest digest;
    std::shared_ptr<const TextPoint> point;
  };
  static Digest digest_of(const std::string& owner, std::span<const int32_t> tokens);
  static int64_t bytes_of(const TextPoint& point);
  void drop_last();

  const int64_t limit_;
  const uint64_t secret_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
  std::unordered_map<uint64_t, std::list<Entry>::iterator> by_quick_;
  int64_t bytes_ = 0;
};

}  // namespace harmonic
