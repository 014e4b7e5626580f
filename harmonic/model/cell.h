// The recurrent cells of a HarmonicBlock: each is a residual layer over rows at one level's rate.
#pragma once

#include <memory>

#include "harmonic/model/mixer.h"

namespace harmonic {

class Cell {
 public:
  virtual ~Cell() = default;
  // v [rows, C] -> [rows, C] with v in the residual path; `segments` are v's sequences.
  virtual Variable forward(Step& step, const Variable& v, const Segments& segments) const = 0;
};

// `kind` is "decay" or "selective"; `tau` in the cell's own steps.
std::unique_ptr<Cell> make_cell(const std::string& kind, const ModelConfig& config, double tau,
                                const Builder& builder);

}  // namespace harmonic
