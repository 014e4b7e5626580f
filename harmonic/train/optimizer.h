// The update of all parameters after a step's gradients are there.
#pragma once

#include <vector>

#include "harmonic/model/parameters.h"
#include "harmonic/model/weights.h"
#include "harmonic/train/objective.h"
#include "harmonic/train/train_config.h"

namespace harmonic {

// How one parameter is updated. Matrices between channels (Role::matrix) decay, and are Muon's where there is
// Muon; everything else is AdamW's. Embeddings, the head, norms, biases, convolutions and start vectors do
// not decay: a row of an embedding that the data rarely names would only shrink.
struct ParameterGroup {
  bool muon = false;
  double peak_lr = 0;
  double weight_decay = 0;
  bool operator==(const ParameterGroup&) const = default;
};
ParameterGroup group_of(Role role, const TrainConfig& config);

// Whether a parameter is trained: all that the objective reaches are, or only those of mixers (train.only).
bool is_trained(const Parameter& parameter, const TrainConfig& config, const Objective& objective);

// Not thread-safe. The parameters must be trained and outlive this.
class Optimizer {
 public:
  Optimizer(Parameters& parameters, const Backend& backend, const TrainConfig& config,
            const Objective& objective = text_objective());

  // The norm of the whole gradient: summed in double, in one order. Not finite when a gradient is not.
  double gradient_norm(Context& context) const;

  // Step number `step` (from 1) of every parameter, with its peak learning rate times `lr_share` and its
  // gradient times `gradient_scale`. Leaves the gradients zero, those of parameters that are not trained too.
  void update(Context& context, int64_t step, double lr_share, double gradient_scale);

  // What it remembers between steps, named after its parameters: "embed.weight.m" and ".v" (AdamW's
  // averages), ".m" alone for Muon's momentum. Views of its memory, to save and to load.
  std::vector<NamedTensor> state() const;

 private:
  struct Slot {
    Parameter* parameter;
    Role role;
    ParameterGroup group;
    Tensor m, v;  // v is null for Muon
  };
  // What AdamW updates in one op: as many neighbours in memory as it treats alike.
  struct Piece {
    Tensor value, grad, m, v;
    Role role;
    ParameterGroup group;
  };
  // What Muon does: matrices of one shape, as many as do not take too much memory at once.
  struct Matrices {
    std::vector<MuonMatrix> all;
    ParameterGroup group;
  };
  void add_piece(const Slot& slot);
  void add_matrix(const Slot& slot);
  const Backend& backend_;
  double beta1_, beta2_;
  Arena memory_;
  std::vector<Slot> slots_;  // in the parameters' order
  // Role by role, whatever the addresses.
  std::vector<Piece> pieces_;
  std::vector<Matrices> matrices_;
  std::vector<Tensor> gradients_;  // of every piece and matrix
  std::vector<Tensor> unused_;     // gradients of what is not trained
};

}  // namespace harmonic
