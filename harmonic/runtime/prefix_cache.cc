#include "harmonic/runtime/prefix_cache.h"

#include <sodium.h>

#include <vector>

#include "harmonic/base/random.h"

namespace harmonic {
namespace {

uint64_t secret_number() {
  uint64_t number;
  ::randombytes_buf(&number, sizeof number);
  return number;
}

// A rolling hash: whether a beginning may be known is asked at every length. What decides is the digest.
uint64_t quick_step(uint64_t hash, int32_t token) {
  hash = (hash ^ static_cast<uint64_t>(static_cast<uint32_t>(token))) * 0x9E3779B97F4A7C15;
  return hash ^ hash >> 29;
}

}  // namespace

PrefixCache::PrefixCache(int64_t bytes) : limit_(bytes), secret_(secret_number()) {}

PrefixCache::Digest PrefixCache::digest_of(const std::string& owner, std::span<const int32_t> tokens) {
  Digest digest;
  crypto_generichash_state state;
  crypto_generichash_init(&state, nullptr, 0, digest.size());
  const auto add = [&](const void* data, size_t size) {
    crypto_generichash_update(&state, static_cast<const unsigned char*>(data), size);
  };
  const uint64_t length = owner.size();
  add(&length, sizeof length);
  add(owner.data(), owner.size());
  add(tokens.data(), tokens.size_bytes());
  crypto_generichash_final(&state, digest.data(), digest.size());
  return digest;
}

int64_t PrefixCache::bytes_of(const TextPoint& point) {
  constexpr int64_t kEntry = 256;  // about what the entry itself takes
  return point.state.bytes() + kEntry;
}

std::optional<PrefixCache::Hit> PrefixCache::find(const std::string& owner, std::span<const int32_t> tokens) {
  std::vector<uint64_t> quick(tokens.size());
  uint64_t hash = secret_ ^ stream_of(owner);
  for (size_t i = 0; i < tokens.size(); ++i) quick[i] = hash = quick_step(hash, tokens[i]);
  const std::lock_guard lock(mutex_);
  for (size_t i = tokens.size(); i-- > 0;) {
    const auto found = by_quick_.find(quick[i]);
    if (found == by_quick_.end() || found->second->digest != digest_of(owner, tokens.first(i + 1))) continue;
    entries_.splice(entries_.begin(), entries_, found->second);
    return Hit{static_cast<int64_t>(i) + 1, found->second->point};
  }
  return {};
}

void PrefixCache::insert(const std::string& owner, std::span<const int32_t> tokens, TextPoint point) {
  if (tokens.empty() || bytes_of(point) > limit_) return;
  Entry entry{secret_ ^ stream_of(owner), digest_of(owner, tokens), nullptr};
  for (const int32_t token : tokens) entry.quick = quick_step(entry.quick, token);
  const std::lock_guard lock(mutex_);
  if (const auto found = by_quick_.find(entry.quick); found != by_quick_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return;  // the same beginning, most likely; of two that only look alike the first stays
  }
  bytes_ += bytes_of(point);
  entry.point = std::make_shared<const TextPoint>(std::move(point));
  by_quick_[entry.quick] = entries_.insert(entries_.begin(), std::move(entry));
  while (bytes_ > limit_) drop_last();
}

void PrefixCache::drop_last() {
  bytes_ -= bytes_of(*entries_.back().point);
  by_quick_.erase(entries_.back().quick);
  entries_.pop_back();
}

int64_t PrefixCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

int64_t PrefixCache::entries() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(entries_.size());
}

}  // namespace harmonic
