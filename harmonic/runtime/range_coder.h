// Arithmetic coding: symbols of known probabilities into as few bytes as their surprise, and back.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace harmonic {

// A symbol's part of [0, total): frequencies of the symbols before it, and its own. Totals up to 2^24.
struct SymbolRange {
  static constexpr uint32_t kMostTotal = 1 << 24;
  uint32_t below, frequency, total;
};

// The interval that both narrow down has at most 2^39 parts: times a total, it fits in 64 bits.
class RangeEncoder {
 public:
  static constexpr uint64_t kWhole = uint64_t{1} << 39;

  void encode(const SymbolRange& symbol);
  // The bytes of all symbols. The encoder is done.
  std::string finish();

 private:
  void put(bool bit);
  uint64_t low_ = 0, high_ = kWhole - 1;
  int64_t undecided_ = 0;  // bits that will be the opposite of the next one
  std::string bytes_;
  int filled_ = 8;  // bits used of the last byte
};

// Beyond the end of its bytes it reads zeros: what is damaged gives other symbols, and is seen by
// is_past_end().
class RangeDecoder {
 public:
  explicit RangeDecoder(std::string_view bytes);
  // Where in [0, total) the next symbol's part is; the caller finds it, and takes it by consume().
  uint32_t target(uint32_t total) const;
  void consume(const SymbolRange& symbol);
  // Whether the symbols so far take more bits than there are: no encoder wrote them.
  bool is_past_end() const { return bit_ - kAhead > 8 * bytes_.size(); }

 private:
  static constexpr size_t kAhead = 39;  // bits that are read before the first symbol: those of kWhole
  static_assert(RangeEncoder::kWhole == uint64_t{1} << kAhead);
  bool next();
  std::string_view bytes_;
  size_t bit_ = 0;
  uint64_t low_ = 0, high_ = RangeEncoder::kWhole - 1, value_ = 0;
};

}  // namespace harmonic
