// Exact gradients of a batch in bounded memory.
//
// Short sequences go through one tape together, as many as fit. A sequence whose activations do not fit goes
// by chunks of time: forward chunk by chunk, keeping only the states at chunk borders, then back from the
// last chunk to the first, each computed again with the tape on, its state's gradient handed to the chunk
// before. The states are a few KB; when even they are too many, only every k-th is kept at first and the ones
// between are recomputed. Attention's states hold the text itself, in caches: unless told to, a document that
// attention reads is never cut, and what it takes grows with its length.
#pragma once

#include "harmonic/eval/batch_pass.h"
#include "harmonic/train/objective.h"

namespace harmonic {

struct LossSum {
  double nats = 0;
  int64_t targets = 0;
};

class Backpropagation {
 public:
  // `memory_bytes` is what activations, their gradients, the states of a pass and those kept at chunk borders
  // may take, but that a chunk of 64 tokens of one text always may, and a whole
  // document where the model has attention; `chunk_len` > 0 fixes the chunk's length
  // in tokens instead, whatever it takes. While a long sequence goes by, `kept_states` rows of states are
  // kept at most (fewer where they would take more than an eighth of the memory), or about 2 sqrt(its chunks)
  // where that is more. Not counted: the ops' scratch memory, part of which each thread has of its own, so
  // that counting it would make the chunks depend on the machine. The model must be trained and, as the
  // objective, outlive this; its gradients are set to zero.
  Backpropagation(Model& model, ThreadPool& pool, int64_t memory_bytes, int64_t chunk_len = 0,
                  int64_t kept_states = kKeptStates, const Objective& objective = text_objective());

  // Adds the gradient of loss_scale * (sum of the losses of all targets) to the parameters' gradients and
  // returns that sum. `carried` is null, or has a row a sequence: the states that segments marked `continues`
  // start from, replaced by the states after the batch. Gradients do not flow back through them.
  LossSum run(const Batch& batch, const StateRows& carried, double loss_scale);

  // Throws Error (usage) when a text of so many tokens takes more than memory_bytes and may not be cut.
  void expect_room_for(int64_t tokens) const;

  // Tokens of one text that go through one tape at most; of many texts fewer do, since each has its states.
  int64_t chunk_rows() const { return chunk_rows_; }
  const PassCost& cost() const { return cost_; }
  // The most that the passes so far have taken of memory_bytes, and the states at chunk borders beside them.
  int64_t peak_bytes() const { return activations_.peak() + gradients_.peak(); }
  int64_t kept_bytes() const { return states_.peak(); }
  static constexpr int64_t kKeptStates = 256;

 private:
  struct States {
    StateRows in, out, d_out, d_in;
  };
  void measure();
  [[noreturn]] static void refuse(int64_t tokens);
  bool fits(int64_t rows, int64_t segments) const {
    return rows <= chunk_rows_ && cost_.of(rows, segments) <= most_bytes_;
  }
  const StateLayout& layout() const { return model_.state_layout(); }
  LossSum together(const Batch& batch, int64_t first_segment, int64_t last_segment, const StateRows& carried,
                   double loss_scale);
  LossSum in_chunks(const Batch& batch, int64_t first_segment, int64_t last_segment, const StateRows& carried,
                    double loss_scale);
  void cut_into_chunks(const Batch& batch, int64_t begin, int64_t end);
  void forward(const Batch& batch, const BatchPiece& piece, const char* state_before, char* state_after);
  LossSum record_and_return(const Batch& batch, const BatchPiece& piece, const States& states,
                            double loss_scale);
  States make_states(int64_t count, bool with_caches);

  Model& model_;
  const Objective& objective_;
  Arena scratch_, activations_, states_;
  GradientPool gradients_;
  Context context_;
  PassCost cost_;
  int64_t most_bytes_ = 0, chunk_rows_ = 0, kept_states_;
  bool cuts_ = true;              // documents that do not fit
  std::vector<int64_t> borders_;  // of the chunks of the sequence at hand: the first row of each, and the end
};

}  // namespace harmonic
