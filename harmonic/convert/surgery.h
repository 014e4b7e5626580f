// Surgery: attention layers of a model replaced by mixers with a state of constant size, all else kept bit
// for bit.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harmonic/model/model.h"

namespace harmonic {

struct SurgeryOptions {
  std::vector<int64_t> layers;  // to replace; empty: every one with attention
  // "matrix": the matrix cell, which starts from attention's projections; "paper": the HarmonicBlock with
  // decay cells in the paper's sizes, which starts anew.
  std::string form = "matrix";
  bool from_scratch = false;  // matrix: projections start anew too
  int64_t features = 0;       // matrix: of a head; 0 is twice its width
  int64_t window = 0;         // of the attention that stays; 0 leaves it as it is
  std::vector<double> taus;   // of the levels; empty: 4, 32, 128
  uint64_t seed = 1;          // of what starts anew
  bool trained = false;       // the new model has gradients
};

struct Surgery {
  std::unique_ptr<Model> model;
  std::vector<int64_t> replaced;  // layers
  int64_t kept = 0, fresh = 0;    // parameters of the new model: copied, and started anew
  int64_t dropped = 0;            // parameters of the source that it has not
};

// The source must have attention in the layers that are replaced. Throws Error (usage).
Surgery replace_attention(const Model& source, const SurgeryOptions& options);

}  // namespace harmonic
