// Random numbers as a pure function: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011). A number depends on
// (seed, stream, index) alone, so that order, threads and restarts cannot change it.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace harmonic {

class Random {
 public:
  // `stream` separates uses of one seed; see stream_of for a stream by name.
  Random(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  // The four 32-bit words at `index`.
  std::array<uint32_t, 4> block(uint64_t index) const {
    std::array<uint32_t, 4> counter = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                                       static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)};
    uint32_t key0 = static_cast<uint32_t>(seed_), key1 = static_cast<uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
      const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
      counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
                 static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    return counter;
  }
  // 64 random bits.
  uint64_t bits(uint64_t index) const {
    const auto words = block(index);
    return uint64_t{words[1]} << 32 | words[0];
  }
  // Uniform in [0, 1), 53 bits.
  double uniform(uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1.0p-53; }
  // Uniform in [0, bound), bound > 0, without noticeable bias (bound far below 2^64).
  uint64_t below(uint64_t index, uint64_t bound) const {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(bits(index)) * bound >> 64);
  }

 private:
  uint64_t seed_, stream_;
};

// A stream for a name (FNV-1a), e.g. of a parameter.
constexpr uint64_t stream_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

}  // namespace harmonic
