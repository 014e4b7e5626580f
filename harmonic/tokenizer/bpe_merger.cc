#include "harmonic/tokenizer/bpe_merger.h"

#include <algorithm>
#include <bit>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr size_t short_piece = 96;          // below it the quadratic loop is the faster one
constexpr size_t kept_bucket = 256;         // buckets that grew beyond it give their memory back
constexpr uint32_t kept_places = 1u << 20;  // and so does everything after a longer piece
constexpr uint32_t no_place = 0xFFFFFFFF;

}  // namespace

MergeTable::MergeTable(std::span<const BpeMerge> merges, std::string_view source, bool by_result) {
  const size_t capacity = std::bit_ceil(std::max<size_t>(merges.size() * 2, 16));
  slots_.resize(capacity);
  mask_ = capacity - 1;
  shift_ = 64 - std::countr_zero(capacity);
  results_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const BpeMerge& merge = merges[i];
    const uint64_t key = key_of(merge.left, merge.right);
    size_t slot = slot_of(key);
    while (slots_[slot].rank != none) {
      if (slots_[slot].key == key)
        fail("{}: merge {} joins the same two tokens as one before it ({} + {})", source, i, merge.left,
             merge.right);
      slot = (slot + 1) & mask_;
    }
    if (!by_result || results_.empty() || results_.back() != merge.result) results_.push_back(merge.result);
    slots_[slot] = {key, static_cast<uint32_t>(results_.size() - 1)};
  }
}

size_t BpeMerger::merge(std::span<int32_t> tokens) {
  return tokens.size() < short_piece ? merge_short(tokens) : merge_long(tokens);
}

size_t BpeMerger::merge_short(std::span<int32_t> tokens) const {
  uint32_t ranks[short_piece];  // of the pair that starts at each place
  size_t count = tokens.size();
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = table_.rank(tokens[i], tokens[i + 1]);
  while (count > 1) {
    uint32_t lowest = MergeTable::none;
    size_t at = 0;
    for (size_t i = 0; i + 1 < count; ++i) {
      at = ranks[i] < lowest ? i : at;
      lowest = std::min(lowest, ranks[i]);
    }
    if (lowest == MergeTable::none) break;
    tokens[at] = table_.result(lowest);
    --count;
    for (size_t i = at + 1; i < count; ++i) {
      tokens[i] = tokens[i + 1];
      ranks[i - 1] = ranks[i];
    }
    if (at > 0) ranks[at - 1] = table_.rank(tokens[at - 1], tokens[at]);
    if (at + 1 < count) ranks[at] = table_.rank(tokens[at], tokens[at + 1]);
  }
  return count;
}

// Places wait in a bucket for each rank, and the bucket of the lowest rank is emptied from left to right. In
// a table made by training, a merge only gives birth to pairs of higher rank, so that a bucket is emptied in
// one go; in any other table a lower rank interrupts it. Entries whose place has changed its rank since are
// skipped.
size_t BpeMerger::merge_long(std::span<int32_t> tokens) {
  if (tokens.size() >= no_place)
    fail("a piece of text of {} bytes without a place to cut it is too long for the tokenizer (limit {})",
         tokens.size(), no_place - 1);
  const uint32_t size = static_cast<uint32_t>(tokens.size());
  buckets_.resize(table_.size());
  next_.resize(size);
  previous_.resize(size);
  ranks_.assign(size, MergeTable::none);
  for (uint32_t i = 0; i < size; ++i) {
    next_[i] = i + 1 < size ? i + 1 : no_place;
    previous_[i] = i > 0 ? i - 1 : no_place;
  }
  for (uint32_t i = 0; i + 1 < size; ++i) set_rank(tokens, i);

  while (!active_.empty()) {
    const uint32_t rank = active_.top();
    Bucket& bucket = buckets_[rank];
    if (!bucket.sorted) {
      std::sort(bucket.places.begin() + static_cast<std::ptrdiff_t>(bucket.cursor), bucket.places.end());
      bucket.sorted = true;
    }
    while (bucket.cursor < bucket.places.size() && active_.top() == rank) {
      const uint32_t place = bucket.places[bucket.cursor++];
      if (ranks_[place] != rank) continue;
      const uint32_t right = next_[place], after = next_[right];
      tokens[place] = table_.result(rank);
      ranks_[right] = MergeTable::none;
      next_[place] = after;
      if (after != no_place) previous_[after] = place;
      set_rank(tokens, place);
      if (previous_[place] != no_place) set_rank(tokens, previous_[place]);
    }
    if (bucket.cursor == bucket.places.size()) {
      bucket.places.clear();
      if (bucket.places.capacity() > kept_bucket) bucket.places.shrink_to_fit();
      bucket.cursor = 0;
      // A lower rank that came with the last merge stands above; this one is found empty later.
      if (active_.top() == rank) active_.pop();
    }
  }

  size_t count = 0;
  for (uint32_t place = 0; place != no_place; place = next_[place]) tokens[count++] = tokens[place];
  if (size > kept_places) {
    buckets_ = {};
    next_ = {};
    previous_ = {};
    ranks_ = {};
  }
  return count;
}

void BpeMerger::set_rank(std::span<const int32_t> tokens, uint32_t place) {
  const uint32_t right = next_[place];
  const uint32_t rank = right == no_place ? MergeTable::none : table_.rank(tokens[place], tokens[right]);
  ranks_[place] = rank;
  if (rank == MergeTable::none) return;
  Bucket& bucket = buckets_[rank];
  if (bucket.places.empty())
    active_.push(rank);
  else if (place < bucket.places.back())
    bucket.sorted = false;
  bucket.places.push_back(place);
}

}  // namespace harmonic
