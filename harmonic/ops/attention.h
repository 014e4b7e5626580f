// Causal attention with grouped heads. Query head h reads key and value head floor(h / (heads / kv_heads));
// each head has D numbers. For the token at position p of its text, over the keys at positions max(0, p -
// window + 1) .. p:
//   y = sum_j softmax_j(q . k_j / sqrt(D)) v_j
// Scores are never held whole: memory is linear in the length, forward and backward (Dao, arXiv 2307.08691).
//
// Keys and values of tokens before a segment's first row lie in its cache, a state of P rows of 2 * kv_heads
// * D numbers, keys then values: the token at position p in row p mod P. KeepKeys brings it up to date. P is
// at least the positions that are ever reached or, with a window, at least the window.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct AttentionShape {
  int64_t heads = 1, kv_heads = 1;
  int64_t window = 0;  // keys that a query reads at most; 0 is all
};

struct Attention {
  Tensor q;     // [R, heads * D]
  Tensor k, v;  // [R, kv_heads * D]
  Tensor past;  // [B, P * 2 * kv_heads * D]; null where all segments begin their texts
  Segments segments;
  const int64_t* positions = nullptr;  // [B] of each segment's first row
  AttentionShape shape;
  Tensor y;    // [R, heads * D]
  Tensor lse;  // [R, heads] or null: log of the sum of exp(q . k_j / sqrt(D)), for backward
};

struct AttentionBackward {
  Tensor q, k, v, past;
  Segments segments;
  const int64_t* positions = nullptr;
  AttentionShape shape;
  Tensor y, lse;      // as forward left them
  Tensor dy;          // [R, heads * D]
  Tensor dq, dk, dv;  // overwritten
  Tensor dpast;       // as past, overwritten, or null
};

// The caches after: those before with the segments' keys and values written into them, the last P of each.
struct KeepKeys {
  Tensor k, v;
  Segments segments;
  const int64_t* positions = nullptr;
  Tensor past;
  Tensor after;  // as past; may be past itself, which saves copying it
};

struct KeepKeysBackward {
  Segments segments;
  const int64_t* positions = nullptr;
  Tensor dafter;  // as past
  Tensor dk, dv;  // +=
  Tensor dpast;   // +=, what was not written over
};

HARMONIC_DECLARE_OP(Attention);
HARMONIC_DECLARE_OP(AttentionBackward);
HARMONIC_DECLARE_OP(KeepKeys);
HARMONIC_DECLARE_OP(KeepKeysBackward);

}  // namespace harmonic
