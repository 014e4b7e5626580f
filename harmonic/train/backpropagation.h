// Exact gradients of a batch in bounded memory.
//
// Short sequences go through one tape together, as many as fit. A sequence whose activations do not fit goes
// by chunks of time: forward chunk by chunk, keeping only the states at chunk borders, then back from the
// last chunk to the first, each computed again with the tape on, its state's gradient handed to the chunk
// before. The states are a few KB; when even they are too many, only every k-th is kept at first and the ones
// between are recomputed. Attention's states hold the text itself, in caches: unless told to, a document that
// attention reads is never cut, and what it takes grows with its length.
//
// On processors, sequences that go together go by lanes where that costs little memory: some of them each,
// through a tape on threads of its own, so that threads need not wait for each other in every op. Each lane
// has gradients of the parameters of its own, and these are added in order: how a batch is divided into lanes
// depends on it and the memory, never on threads, and so do the bits.
#pragma once

#include <deque>
#include <map>

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
  int64_t peak_bytes() const { return most_held_ + lane_memory_.peak(); }
  int64_t kept_bytes() const { return states_.peak(); }
  static constexpr int64_t kKeptStates = 256;

 private:
  struct States {
    StateRows in, out, d_out, d_in;
  };
  // What passes work with, one at a time.
  struct Workspace {
    Workspace(ThreadPool& pool, MemorySource* memory)
        : scratch(memory),
          activations(memory),
          gradients(memory),
          context{.pool = pool, .scratch = scratch} {}
    // Bytes kept for passes to come: the most that one has taken.
    int64_t held() const { return activations.peak() + gradients.peak(); }
    void release();

    Arena scratch, activations;
    GradientPool gradients;
    Context context;
  };
  struct LaneWorker {
    LaneWorker(int threads, MemorySource* memory) : pool(threads), workspace(pool, memory) {}
    ThreadPool pool;
    Workspace workspace;
  };
  void measure();
  int64_t held() const;
  void make_room(std::deque<LaneWorker>* workers, int64_t each);
  [[noreturn]] static void refuse(int64_t tokens);
  bool fits(int64_t rows, int64_t segments) const {
    return rows <= chunk_rows_ && cost_.of(rows, segments) <= most_bytes_;
  }
  const StateLayout& layout() const { return model_.state_layout(); }
  std::vector<int64_t> lanes_of(const Batch& batch, int64_t first_segment, int64_t last_segment) const;
  LossSum by_lanes(const Batch& batch, const std::vector<int64_t>& borders, const StateRows& carried,
                   double loss_scale);
  LossSum together(Workspace& workspace, const Batch& batch, int64_t first_segment, int64_t last_segment,
                   const StateRows& carried, double loss_scale);
  LossSum in_chunks(const Batch& batch, int64_t first_segment, int64_t last_segment, const StateRows& carried,
                    double loss_scale);
  void cut_into_chunks(const Batch& batch, int64_t begin, int64_t end);
  void forward(const Batch& batch, const BatchPiece& piece, const char* state_before, char* state_after);
  LossSum record_and_return(Workspace& workspace, const Batch& batch, const BatchPiece& piece,
                            const States& states, double loss_scale);
  States make_states(Workspace& workspace, int64_t count, bool with_caches);

  Model& model_;
  const Objective& objective_;
  ThreadPool& pool_;
  Workspace all_;  // of all threads
  Arena states_;
  PassCost cost_;
  int64_t most_lanes_ = 1;
  Arena lane_memory_;
  std::vector<Tensor> lane_gradients_;                     // each like all of the parameters'
  std::map<size_t, std::deque<LaneWorker>> lane_workers_;  // by the threads that each has
  int64_t most_bytes_ = 0, most_held_ = 0, chunk_rows_ = 0, kept_states_;
  bool cuts_ = true;              // documents that do not fit
  std::vector<int64_t> borders_;  // of the chunks of the sequence at hand: the first row of each, and the end
};

}  // namespace harmonic
