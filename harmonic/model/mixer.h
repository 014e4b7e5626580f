// What stands in a layer's place for looking back: the HarmonicBlock, attention, mamba. A new mixer is one
// file that implements Mixer and a line in make_mixer.
#pragma once

#include <memory>
#include <string>

#include "harmonic/model/config.h"
#include "harmonic/model/parameters.h"
#include "harmonic/model/step.h"

namespace harmonic {

// Multiply-adds a token, forward: matrix products and scan updates, each divided by its stride.
struct Work {
  struct Part {
    std::string name;
    int64_t stride;
    double multiply_adds;  // a row at that stride
  };
  std::vector<Part> parts;
  void add(std::string name, int64_t stride, double multiply_adds) {
    parts.push_back({std::move(name), stride, multiply_adds});
  }
  double per_token() const {
    double total = 0;
    for (const Part& part : parts) total += part.multiply_adds / static_cast<double>(part.stride);
    return total;
  }
};

// What a module needs while it is built: where it declares its parameters, its state and its work, under a
// name.
struct Builder {
  Parameters& parameters;
  StateLayout& state;
  Work& work;
  std::string prefix;              // "layers.0.mixer."
  int64_t stride = 1;              // of the rows the module works on
  std::string matrices_from = {};  // the prefix of another module whose matrices are this one's too

  Builder within(const std::string& name) const {
    return {parameters, state, work, prefix + name + ".", stride, {}};
  }
  Builder at(int64_t new_stride) const { return {parameters, state, work, prefix, new_stride, {}}; }
  // For a module under `name` that has the vectors and the state of its own, and the matrices of `other`,
  // which is built already.
  Builder with_matrices_of(const std::string& other, const std::string& name) const {
    return {parameters, state, work, prefix + name + ".", stride, prefix + other + "."};
  }
  Parameter& matrix(const std::string& name, int64_t outputs, int64_t inputs) const {
    return matrix(name, outputs, inputs, Initial::fan_in(inputs));
  }
  Parameter& matrix(const std::string& name, int64_t outputs, int64_t inputs, Initial initial) const {
    work.add(prefix + name, stride, static_cast<double>(outputs * inputs));
    if (!matrices_from.empty()) {
      Parameter* shared = parameters.find(matrices_from + name + ".weight");
      HARMONIC_ASSERT(shared && shared->shape == (std::vector<int64_t>{outputs, inputs}));
      return *shared;
    }
    return parameters.add(prefix + name + ".weight", {outputs, inputs}, Role::matrix, initial);
  }
  Parameter& vector(const std::string& name, int64_t size, Initial initial) const {
    return parameters.add(prefix + name, {size}, Role::vector, initial);
  }
  StateField keep(const std::string& name, int64_t size) const { return state.add(prefix + name, size); }
  StateField keep_cache(const std::string& name, int64_t rows, int64_t width) const {
    return state.add_cache(prefix + name, rows, width);
  }
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x [R, d_model], normed -> [R, d_model]. Reads and writes its own fields of the step's states.
  virtual Variable forward(Step& step, const Variable& x) const = 0;
};

// `kind` is one of ModelConfig::mixer.
std::unique_ptr<Mixer> make_mixer(const std::string& kind, const ModelConfig& config, const Builder& builder);

}  // namespace harmonic
