// The parameters of a model by name, in one order, in one piece of memory for values and one for gradients.
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "harmonic/autograd/tape.h"

namespace harmonic {

// How a parameter starts. Uniform numbers only: they are the same on every machine.
struct Initial {
  enum class Kind : uint8_t {
    zeros,
    constant,       // value
    uniform,        // in [-value, value]
    time_scales,    // log(exp(1/tau) - 1), tau log-uniform in [value, highest]: sigmoid(-x) = exp(-1/tau)
    log_of_column,  // log(1 + column)
    identities,     // value x value identities side by side and below each other, moved by up to 0.1
    one_column,     // 1 in column `value`, else 0
  };
  Kind kind = Kind::zeros;
  double value = 0, highest = 0;

  static Initial zeros() { return {Kind::zeros, 0}; }
  static Initial constant(double value) { return {Kind::constant, value}; }
  static Initial uniform(double bound) { return {Kind::uniform, bound}; }
  static Initial fan_in(int64_t inputs);  // uniform with bound 1 / sqrt(inputs)
  static Initial time_scales(double shortest, double longest) {
    return {Kind::time_scales, shortest, longest};
  }
  static Initial log_of_column() { return {Kind::log_of_column}; }
  static Initial identities(int64_t side) { return {Kind::identities, static_cast<double>(side)}; }
  static Initial one_column(int64_t column) { return {Kind::one_column, static_cast<double>(column)}; }
};

// What a parameter is, for counting and for the optimiser.
enum class Role : uint8_t {
  embedding,  // embedding table or head: [V, C]
  matrix,     // a weight between channels: decayed, and Muon's
  vector,     // a norm, bias, skip, convolution, start vector: not decayed
};

class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // Declares a parameter of one or more dimensions; its matrix view has shape[0] rows (1 for a vector). The
  // reference stays valid. Names are unique.
  Parameter& add(std::string name, std::vector<int64_t> shape, Role role, Initial initial);

  // Gives every declared parameter memory of the backend's: values uninitialised, gradients (when trained)
  // zero.
  void allocate(const Backend& backend, bool trained);
  // Sets all gradients to zero. The program writes the zeros: the backend must be done.
  void clear_gradients();
  // All gradients as one row, parameters' own parts of it with zeros between them; null unless trained.
  const Tensor& gradients() const { return gradients_; }
  // Values from a seed; a value depends on the seed, the parameter's name and its index alone. With a pool,
  // by all its threads.
  void initialise(uint64_t seed, ThreadPool* pool = nullptr);

  size_t size() const { return entries_.size(); }
  Parameter& operator[](size_t i) { return entries_[i].parameter; }
  const Parameter& operator[](size_t i) const { return entries_[i].parameter; }
  Role role(size_t i) const { return entries_[i].role; }
  Parameter* find(std::string_view name);
  int64_t count() const;  // numbers in all
  int64_t count(Role role) const;
  bool trained() const { return trained_; }

  // Leaves the packed form of a parameter of these as the only one: its value has no data from then on.
  void drop_value(Parameter& parameter);

  // Whether parameter i may have its value in memory of another's: it is not trained, and not on a device,
  // and is one that drop_value() may be asked to drop.
  bool may_borrow(size_t i) const;
  // Its value lies at `data` from now on, contiguous, which the program may write to and `owner` keeps.
  void borrow(size_t i, void* data, std::shared_ptr<const void> owner);

  // SHA-256 over names, shapes and values, the same whether they are packed or not.
  std::string hash() const;

  // Memory that lives as long as the parameters, e.g. for packed weights.
  Arena& memory() { return memory_; }

 private:
  struct Entry {
    Parameter parameter;
    Role role;
    Initial initial;
  };
  std::deque<Entry> entries_;
  Arena memory_, matrices_;  // the second: values that may be dropped
  int64_t kept_ = 0;         // of these
  std::vector<std::shared_ptr<const void>> lenders_;
  Tensor gradients_;
  bool trained_ = false;
};

}  // namespace harmonic
