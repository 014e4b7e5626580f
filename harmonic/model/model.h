// The decoder that every model is: embed -> layers of (mixer, ffn) -> norm -> head.
#pragma once

#include <memory>
#include <vector>

#include "harmonic/model/mixer.h"

namespace harmonic {

// Immutable while it computes; a model that is not being trained may be used by several threads, each with
// its own Context, arena and tape.
class Model {
 public:
  using MixerFactory = std::unique_ptr<Mixer> (*)(const std::string& kind, const ModelConfig&,
                                                  const Builder&);
  // Declares and allocates; values are uninitialised until parameters().initialise or a file fills them.
  // Another factory than make_mixer is for experiments.
  Model(const ModelConfig& config, const Backend& backend, bool trained, MixerFactory mixers = make_mixer);

  const ModelConfig& config() const { return config_; }
  const Backend& backend() const { return backend_; }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  const StateLayout& state_layout() const { return layout_; }
  const Work& work() const { return work_; }  // the head apart
  const Parameter& head() const { return *head_; }
  // Every stride at which something of the model runs, ascending, from 1.
  std::vector<int64_t> strides() const;
  // Tokens after which a text stands at the same place of all strides again.
  int64_t period() const;

  // Turns every matrix into its packed form, which is the only one from then on: products with few rows
  // (decoding) get faster, with the same bits; a card has none of f32, and keeps the matrices. Formats other
  // than f32 (bf16; i8, with a scale for each row)
  // first round the matrices, the embedding table excepted where it is not the head too: the packed forms are
  // read at less cost and give the same bits as the rounded matrices would. Only for a model that is not
  // trained; what is packed already stays as it is.
  void pack(Context& context, DType format = DType::f32);
  bool packed() const { return packed_; }

  // The parts of forward(), for who takes them one by one: the rows that enter the first layer; what layer
  // i's mixer reads and gives, of rows x that enter the layer; and the rows that leave it.
  Variable embedded(Tape& tape, const Tensor& tokens) const;
  Variable mixer_input(Tape& tape, int64_t i, const Variable& x) const;
  Variable mixed(Step& step, int64_t i, const Variable& input) const;
  Variable after_mixer(Tape& tape, int64_t i, const Variable& x, const Variable& mix) const;

  // The normed hidden rows [R, d_model] that the head reads. tokens [1, R] i32, each in [0, vocab_size).
  Variable forward(Step& step, const Tensor& tokens) const;
  // Logits [R, vocab_size] of hidden rows. For inference. `use`: who reads them; those of the program lie
  // together.
  Tensor logits(Tape& tape, const Tensor& hidden, MemoryUse use = MemoryUse::shared) const;

 private:
  Variable norm(Tape& tape, const Variable& x, const Parameter& weight) const;

  struct Layer {
    Parameter* mixer_norm;
    std::unique_ptr<Mixer> mixer;
    Parameter *ffn_norm = nullptr, *ffn_gate = nullptr, *ffn_up = nullptr, *ffn_down = nullptr;
  };
  ModelConfig config_;
  const Backend& backend_;
  Parameters parameters_;
  StateLayout layout_;
  Work work_;
  Parameter* embed_;
  std::vector<Layer> layers_;
  Parameter* final_norm_;
  Parameter* head_;
  bool packed_ = false;
};

}  // namespace harmonic
