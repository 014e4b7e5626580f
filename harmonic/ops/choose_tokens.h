// The token that follows each row of logits, by a random number that the caller draws.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

struct TokenChoice {
  double temperature = 1;  // 0 is greedy
  int64_t top_k = 0;       // keep the k likeliest; 0 keeps all
  double top_p = 1;        // keep the likeliest that together reach this probability
  double min_p = 0;        // drop what is less likely than this share of the likeliest
  double uniform = 0;      // in [0, 1)
};
// Whether it keeps tokens by their rank.
inline bool is_ranked(const TokenChoice& choice) {
  return choice.temperature > 0 && (choice.top_k > 0 || choice.top_p < 1);
}

// The filters apply in the order temperature, top_k, top_p, min_p; of equal logits the lower id comes first;
// at least one token is always kept. `uniform` times the mass of what is kept is looked up in the sums of
// what is kept, in the order of ids.
//
// A card takes no choices that are ranked, and its weights are f32: its token is another one where the random
// number falls within about 1e-6 of a border between two.
struct ChooseTokens {
  Tensor logits;               // [R, V]
  const TokenChoice* choices;  // [R]; where the backend's memory is
  Tensor tokens;               // [1, R] i32, where the backend's memory is; -1 where a logit is not finite
};

HARMONIC_DECLARE_OP(ChooseTokens);

}  // namespace harmonic
