// Copies of states that cost what their texts have used of them: caches of attention are large, and mostly
// empty.
#pragma once

#include "harmonic/model/state.h"

namespace harmonic {

// Copies a whole block, but of its caches only what a text at its position has used: their rows, of which
// each has `cached_tokens`, one a token. What `to`, a whole block too, had used beyond that is zero then:
// when all else is zero in both, `to` is the same as `from` to the bit.
void move_state(const StateLayout& layout, int64_t cached_tokens, const void* from, void* to);
// Makes it the state before a document, in the same way.
void clear_state(const StateLayout& layout, int64_t cached_tokens, void* block);

}  // namespace harmonic
