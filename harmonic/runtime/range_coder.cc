#include "harmonic/runtime/range_coder.h"

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

// After Witten, Neal and Cleary (CACM 1987). An interval keeps more than a quarter of the whole, so that
// every symbol has a part of it.
constexpr uint64_t kHalf = RangeEncoder::kWhole / 2, kQuarter = RangeEncoder::kWhole / 4;
static_assert(kQuarter > SymbolRange::kMostTotal);

void narrow(const SymbolRange& symbol, uint64_t& low, uint64_t& high) {
  const uint64_t range = high - low + 1;
  high = low + range * (symbol.below + symbol.frequency) / symbol.total - 1;
  low = low + range * symbol.below / symbol.total;
}

}  // namespace

void RangeEncoder::put(bool bit) {
  if (filled_ == 8) {
    bytes_ += '\0';
    filled_ = 0;
  }
  if (bit) bytes_.back() = static_cast<char>(static_cast<uint8_t>(bytes_.back()) | 0x80 >> filled_);
  ++filled_;
}

void RangeEncoder::encode(const SymbolRange& symbol) {
  HARMONIC_ASSERT(symbol.frequency > 0 && symbol.total <= SymbolRange::kMostTotal &&
                  symbol.below + symbol.frequency <= symbol.total);
  narrow(symbol, low_, high_);
  for (;;) {
    if (high_ < kHalf || low_ >= kHalf) {
      const bool bit = low_ >= kHalf;
      put(bit);
      for (; undecided_ > 0; --undecided_) put(!bit);
      if (bit) low_ -= kHalf, high_ -= kHalf;
    } else if (low_ >= kQuarter && high_ < kHalf + kQuarter) {
      ++undecided_;
      low_ -= kQuarter;
      high_ -= kQuarter;
    } else {
      return;
    }
    low_ <<= 1;
    high_ = high_ << 1 | 1;
  }
}

std::string RangeEncoder::finish() {
  ++undecided_;
  const bool bit = low_ >= kQuarter;
  put(bit);
  for (; undecided_ > 0; --undecided_) put(!bit);
  return std::move(bytes_);
}

RangeDecoder::RangeDecoder(std::string_view bytes) : bytes_(bytes) {
  for (uint64_t part = 1; part < RangeEncoder::kWhole; part <<= 1)
    value_ = value_ << 1 | static_cast<uint64_t>(next());
}

bool RangeDecoder::next() {
  const size_t byte = bit_ / 8;
  const bool bit = byte < bytes_.size() && (static_cast<uint8_t>(bytes_[byte]) & 0x80 >> bit_ % 8) != 0;
  ++bit_;
  return bit;
}

uint32_t RangeDecoder::target(uint32_t total) const {
  const uint64_t range = high_ - low_ + 1;
  return static_cast<uint32_t>(((value_ - low_ + 1) * total - 1) / range);
}

void RangeDecoder::consume(const SymbolRange& symbol) {
  narrow(symbol, low_, high_);
  for (;;) {
    if (low_ >= kHalf) {
      low_ -= kHalf, high_ -= kHalf, value_ -= kHalf;
    } else if (low_ >= kQuarter && high_ < kHalf + kQuarter) {
      low_ -= kQuarter, high_ -= kQuarter, value_ -= kQuarter;
    } else if (high_ >= kHalf) {
      return;
    }
    low_ <<= 1;
    high_ = high_ << 1 | 1;
    value_ = value_ << 1 | static_cast<uint64_t>(next());
  }
}

}  // namespace harmonic
