#include "harmonic/model/used_state.h"

#include <algorithm>

namespace harmonic {
namespace {

int64_t used_rows(const void* block, int64_t cached_tokens) {
  uint64_t position;
  std::memcpy(&position, block, sizeof position);
  return static_cast<int64_t>(std::min(position, static_cast<uint64_t>(cached_tokens)));
}

}  // namespace

void move_state(const StateLayout& layout, int64_t cached_tokens, const void* from, void* to) {
  const int64_t kept = used_rows(from, cached_tokens), gone = used_rows(to, cached_tokens);
  std::memcpy(to, from, static_cast<size_t>(layout.bytes_before_caches()));
  if (!layout.has_caches()) return;
  for (const StateLayout::Named& named : layout.fields()) {
    if (!named.field.cache) continue;
    HARMONIC_ASSERT(cached_tokens > 0 && named.field.size % cached_tokens == 0);
    const int64_t element = size_of(layout.dtype());
    const auto row = static_cast<size_t>(named.field.size / cached_tokens * element);
    const auto begin = static_cast<size_t>(layout.bytes_before_caches() + named.field.offset * element);
    char* place = static_cast<char*>(to) + begin;
    std::memcpy(place, static_cast<const char*>(from) + begin, row * static_cast<size_t>(kept));
    if (gone > kept)
      std::memset(place + row * static_cast<size_t>(kept), 0, row * static_cast<size_t>(gone - kept));
  }
}

void clear_state(const StateLayout& layout, int64_t cached_tokens, void* block) {
  // The position alone decides what is copied of the caches.
  const std::string zeros(static_cast<size_t>(layout.bytes_before_caches()), '\0');
  move_state(layout, cached_tokens, zeros.data(), block);
}

}  // namespace harmonic
