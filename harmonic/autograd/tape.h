// autograd: the tape. It runs ops going forward, remembers how to go back, and runs their backward in
// reverse. With recording off the same model code is inference and nothing is remembered.
#pragma once

#include <cstdint>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "harmonic/ops/backend.h"

namespace harmonic {

// The gradient of a variable while a tape runs backward; `gradient` is null until something has reached it.
// Slices of columns are reached one by one: what no contribution has reached yet is undefined, and set to
// zero only where somebody asks for it.
struct GradientNode {
  struct Columns {
    int64_t begin, end;
  };
  static constexpr int kMostRuns = 4;

  int64_t rows, cols;
  Tensor gradient;
  Columns reached[kMostRuns] = {};  // in order, none adjacent to the next
  int runs = 0;
};

// A tensor that gradients may flow to. Cheap to copy. `node` is null where no gradient is wanted; `column` is
// where this begins in the node's tensor, when it is a slice of columns.
struct Variable {
  Tensor value;
  GradientNode* node = nullptr;
  int64_t column = 0;

  Variable columns(int64_t begin, int64_t count) const {
    return {value.columns(begin, count), node, column + begin};
  }
};

// A trained matrix or vector. The memory belongs to Parameters (model).
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;  // as in files; value is its matrix view
  Tensor value;                // without data where `packed` holds it alone
  Tensor grad;                 // null: not trained
  Tensor packed;               // null, or value packed for products
  bool plain = false;          // read as it is by an op that takes no packed form
};

// Where gradients go. Those of activations: memory whose buffers come back one by one and are handed out
// again by size. Those of parameters: their own, unless another place is named.
class GradientPool {
 public:
  explicit GradientPool(MemorySource* source = nullptr) : arena_(source) {}
  Tensor take(int64_t rows, int64_t cols, DType dtype);
  void give_back(const Tensor& tensor);
  // Forgets all buffers; none may be in use.
  void clear();
  // The same, and gives the memory back to the system and forgets the peak.
  void release();
  int64_t peak() const { return arena_.peak(); }
  // From now on the gradients of parameters are added to `copies`, a row like `own`, in which theirs lie.
  void collect_in(const Tensor& copies, const Tensor& own) {
    copies_ = copies;
    own_ = own;
  }
  // Null where the parameter has none.
  Tensor of(const Parameter& parameter) const;

 private:
  struct Free {
    int64_t bytes;
    Tensor tensor;
  };
  Arena arena_;
  std::vector<Free> free_;
  Tensor copies_, own_;
};

// One forward pass, and its backward. Not thread-safe. Activations live in `memory` (rewound by the owner,
// after the tape's life), gradients of activations in `gradients`, which may be null when nothing is
// recorded.
class Tape {
 public:
  Tape(const Backend& backend, Context& context, Arena& memory, GradientPool* gradients)
      : backend_(backend), context_(context), memory_(memory), gradients_(gradients) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;
  ~Tape();

  bool recording() const { return gradients_ != nullptr; }
  DType dtype() const { return backend_.dtype; }
  Arena& memory() { return memory_; }

  template <typename Op>
  void run(const Op& op) {
    backend_(context_, op);
  }
  // Before the program reads what ops have written, or writes what they read.
  void synchronize() const { backend_.synchronize(); }

  // A new variable [rows, cols], uninitialised.
  Variable variable(int64_t rows, int64_t cols);
  // One that matrix products alone will read: on a card whose products are of bf16 numbers it holds such, so
  // that they need not be rounded first; but for few rows, whose products take f32. Its gradient is as any.
  Variable operand(int64_t rows, int64_t cols);
  // Memory that backward will need but no gradient flows to; null when not recording.
  Tensor saved(int64_t rows, int64_t cols) {
    return recording() ? memory_.tensor(rows, cols, dtype()) : Tensor{};
  }

  // Remembers `backward(tape)` as the way back of the op that made `output`, whose gradient is given up when
  // it has run ({} where there is none). The function object is kept in the arena and never destroyed, so it
  // may own nothing.
  template <typename Backward>
  void record(const Variable& output, Backward backward) {
    static_assert(std::is_trivially_destructible_v<Backward>);
    if (!recording()) return;
    auto* entry = new (memory_.allocate(sizeof(Entry))) Entry;
    entry->function = new (memory_.allocate(sizeof(Backward))) Backward(backward);
    entry->call = [](const void* function, Tape& tape) { (*static_cast<const Backward*>(function))(tape); };
    entry->output = output.node;
    entry->previous = last_;
    last_ = entry;
  }

  // Runs everything recorded, in reverse, once.
  void backward();

  // Where the gradient of a parameter is to be added; null unless recording.
  Tensor gradient_of(const Parameter& parameter) const {
    return recording() ? gradients_->of(parameter) : Tensor{};
  }

  // For backward functions only:
  // the gradient that has reached `variable`, zero where none has;
  Tensor gradient(const Variable& variable);
  // where to put a contribution to it;
  Gradient contribute(const Variable& variable);
  // the same for ops that overwrite: no contribution to these columns may have come before;
  Tensor overwrite(const Variable& variable);
  // passes the whole gradient of `from` on to `to`: without a copy where `to` has none yet, since `from`, an
  // output of the op that is being undone, needs its own no more.
  void pass(const Variable& from, const Variable& to);

 private:
  Variable variable(int64_t rows, int64_t cols, DType dtype);
  GradientNode& node_with_memory(const Variable& variable);
  // Of columns [begin, end): zero where nothing has reached them; and remembered as reached.
  void fill_gaps(GradientNode& node, int64_t begin, int64_t end);
  void mark_reached(GradientNode& node, int64_t begin, int64_t end);

  struct Entry {
    void (*call)(const void*, Tape&);
    const void* function;
    GradientNode* output;
    Entry* previous;
  };

  const Backend& backend_;
  Context& context_;
  Arena& memory_;
  GradientPool* gradients_;
  Entry* last_ = nullptr;
};

}  // namespace harmonic
