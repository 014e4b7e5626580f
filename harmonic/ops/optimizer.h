// Updates of parameters. Each also sets the gradient to zero, ready for the next step.
#pragma once

#include "harmonic/ops/op.h"

namespace harmonic {

// results[i] = the sum of the squares of tensor i, accumulated in double in a fixed order.
struct SumsOfSquares {
  const Tensor* tensors = nullptr;
  int64_t count = 0;
  double* results = nullptr;  // in the backend's memory
};

// AdamW (Loshchilov and Hutter, arXiv 1711.05101), in one pass over memory:
//   g = gradient_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   value = value (1 - lr weight_decay) - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)
struct AdamW {
  Tensor value, grad;         // [R, C]
  Tensor m, v;                // [R, C]
  double gradient_scale = 1;  // from clipping
  double lr = 0, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0;
  int64_t step = 1;  // from 1
};

// Muon (Jordan et al., 2024): momentum whose matrix is brought near the closest orthogonal one by five
// quintic Newton-Schulz steps (3.4445, -4.7750, 2.0315) on M / ||M||:
//   m = momentum m + g;  M = g + momentum m  (Nesterov);  O = newton_schulz(M)
//   value = value (1 - lr weight_decay) - lr sqrt(max(1, R / C)) O
struct MuonMatrix {
  Tensor value, grad;  // [R, C]
  Tensor m;            // [R, C]
};
struct Muon {
  const MuonMatrix* matrices = nullptr;  // all of one shape
  int64_t count = 0;
  double gradient_scale = 1;
  double lr = 0, momentum = 0.95, weight_decay = 0;
};

HARMONIC_DECLARE_OP(SumsOfSquares);
HARMONIC_DECLARE_OP(AdamW);
HARMONIC_DECLARE_OP(Muon);

}  // namespace harmonic
