// The merging of one piece of text: ranks of pairs, and the loop that applies them.
#pragma once

#include <cstdint>
#include <queue>
#include <span>
#include <vector>

#include "harmonic/tokenizer/bpe.h"

namespace harmonic {

// From a pair of tokens to the rank of its merge. Immutable; a hash table with open addresses.
class MergeTable {
 public:
  static constexpr uint32_t none = 0xFFFFFFFF;

  // The rank of a merge is its place among them; with `by_result`, merges that follow one another and make
  // the same token share one, so that of their pairs the leftmost is merged first. Throws Error, naming
  // `source`, when a pair appears twice.
  MergeTable(std::span<const BpeMerge> merges, std::string_view source, bool by_result = false);

  uint32_t rank(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].rank;
      if (slots_[slot].rank == none) return none;
    }
  }
  int32_t result(uint32_t rank) const { return results_[rank]; }
  size_t size() const { return results_.size(); }

 private:
  struct Slot {
    uint64_t key = ~uint64_t{0};  // no pair of ids, since ids are not negative
    uint32_t rank = none;
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9E3779B97F4A7C15) >> shift_; }

  std::vector<Slot> slots_;
  std::vector<int32_t> results_;  // by rank
  size_t mask_ = 0;
  int shift_ = 0;
};

// Merges pieces; holds working memory, so one for each thread.
class BpeMerger {
 public:
  explicit BpeMerger(const MergeTable& table) : table_(table) {}

  // Merges `tokens` in place until no pair has a rank and returns how many are left. Short pieces take
  // quadratic time with a small constant, long ones time near-linear in their length.
  size_t merge(std::span<int32_t> tokens);

 private:
  // The places whose pair has one rank. Ascending but for the unsorted case, which is put right before use.
  struct Bucket {
    std::vector<uint32_t> places;
    size_t cursor = 0;
    bool sorted = true;
  };
  size_t merge_short(std::span<int32_t> tokens) const;
  size_t merge_long(std::span<int32_t> tokens);
  void set_rank(std::span<const int32_t> tokens, uint32_t place);

  const MergeTable& table_;
  std::vector<uint32_t> next_, previous_,
      ranks_;                    // by place; a rank is none for a place merged into its left one
  std::vector<Bucket> buckets_;  // by rank
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>>
      active_;  // ranks whose bucket is not empty
};

}  // namespace harmonic
