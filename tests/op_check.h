// The one test body that all backends go through. An op's test is a function that builds the op's arguments
// in a Trial, by name, and runs it. The same function then
// - runs on the reference and on a backend, which must agree in every tensor that was written;
// - runs on the reference with each input moved a little: gradients must equal central differences;
// - runs with any number of threads and any vector instructions: the bits must be the same.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "emulated_cuda.h"
#include "harmonic/base/half.h"
#include "harmonic/base/random.h"
#include "harmonic/ops/backend.h"
#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/ops/reference.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {

// The arguments of an op on one backend. Inputs have the same values on every backend, all representable in
// f32. Rows are farther apart than their columns; what lies around and between them must survive, and so must
// inputs. Outputs hold NaN before the op runs. A name that is known already gives the same tensor again.
class Trial {
 public:
  Trial(const Backend& backend, int threads)
      : backend_(backend),
        pool_(threads),
        scratch_(backend.memory),
        temporaries_(backend.memory),
        tensors_(backend.memory) {
    // Scratch memory that was never written must not matter.
    std::memset(scratch_.allocate(1 << 18, MemoryUse::tensors), 0xFF, 1 << 18);
    scratch_.clear();
  }

  Tensor input(const std::string& name, int64_t rows, int64_t cols, double low = -1, double high = 1) {
    return store(name, Role::input, rows, cols, low, high);
  }
  Tensor output(const std::string& name, int64_t rows, int64_t cols) {
    return store(name, Role::output, rows, cols, kNan, kNan);
  }
  // Read and then overwritten.
  Tensor changed(const std::string& name, int64_t rows, int64_t cols, double low = -1, double high = 1) {
    return store(name, Role::output, rows, cols, low, high);
  }
  // A row of an input that the op must not read.
  void poison_row(const std::string& name, int64_t row) {
    Stored& stored = find(name);
    for (int64_t c = 0; c < stored.tensor.cols; ++c) set(stored.tensor, row, c, kNan);
    stored.before = stored.now();
  }
  double* output_numbers(const std::string& name, int64_t count) {
    return store(name, Role::output, 1, count, kNan, kNan, DType::f64).as<double>();
  }
  // The packed form of a weight; null where the backend has none of f32.
  Tensor packed(const Tensor& weight) {
    if (backend_.device != Device::cpu) return {};
    const Tensor result = temporary(1, packed_weight_size(weight.rows, weight.cols));
    (*this)(PackWeight{weight, result});
    return result;
  }
  // Memory between two ops of one body; not compared.
  Tensor temporary(int64_t rows, int64_t cols) {
    const Tensor tensor = temporaries_.tensor(rows, cols, backend_.dtype);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) set(tensor, r, c, kNan);
    return tensor;
  }
  Tensor integers(const std::vector<int32_t>& values) {
    integers_.push_back(values);
    const auto count = static_cast<int64_t>(values.size());
    return {integers_.back().data(), 1, count, count, DType::i32, Device::cpu};
  }
  const int64_t* numbers(const std::vector<int64_t>& values) {
    numbers_.push_back(values);
    return numbers_.back().data();
  }
  const uint8_t* flags(const std::vector<uint8_t>& values) {
    flags_.push_back(values);
    return flags_.back().data();
  }
  Segments segments(const std::vector<int64_t>& lengths) {
    std::vector<int64_t> offsets = {0};
    for (const int64_t length : lengths) offsets.push_back(offsets.back() + length);
    return {numbers(offsets), static_cast<int64_t>(lengths.size())};
  }

  // The gradient that comes in for an output: the loss of which gradients are taken is the sum of
  // cotangent x output over all outputs that have one.
  Tensor cotangent(const std::string& output_name) {
    const Tensor& of = find(output_name).tensor;
    return input(cotangent_name(output_name), of.rows, of.cols);
  }
  void constant_cotangent(const std::string& output_name, double value) {
    const Tensor& of = find(output_name).tensor;
    input(cotangent_name(output_name), of.rows, of.cols, value, value);
  }
  // Where the gradient of an input goes; with `add` it is added to numbers that are there already.
  Gradient gradient(const std::string& input_name, bool add = false) {
    const Tensor& of = find(input_name).tensor;
    const double size = add ? 0.5 : kNan;
    return {store(gradient_name(input_name), Role::output, of.rows, of.cols, -size, size), add};
  }
  Tensor written_gradient(const std::string& input_name) { return gradient(input_name).to; }
  Tensor summed_gradient(const std::string& input_name) { return gradient(input_name, true).to; }

  template <typename Op>
  void operator()(const Op& op) {
    Context context{pool_, scratch_};
    backend_(context, op);
    backend_.synchronize();
  }

  // What the test does with a body before and after it has run.
  void move(const std::string& name, int64_t index, double by) { moves_[name] = {index, by}; }
  std::vector<std::string> outputs() const {
    std::vector<std::string> names;
    for (const auto& [name, stored] : stored_)
      if (stored.role == Role::output) names.push_back(name);
    return names;
  }
  std::vector<std::string> inputs_with_gradients() const {
    std::vector<std::string> names;
    for (const auto& [name, stored] : stored_)
      if (stored_.count(gradient_name(name))) names.push_back(name);
    return names;
  }
  std::vector<double> values(const std::string& name) const {
    const Tensor& tensor = stored_.at(name).tensor;
    std::vector<double> result;
    for (int64_t r = 0; r < tensor.rows; ++r)
      for (int64_t c = 0; c < tensor.cols; ++c) result.push_back(get(tensor, r, c));
    return result;
  }
  // What the op added to a gradient.
  std::vector<double> gradient_values(const std::string& input_name) const {
    const Stored& stored = stored_.at(gradient_name(input_name));
    std::vector<double> result = values(gradient_name(input_name));
    for (size_t i = 0; i < result.size(); ++i)
      if (!std::isnan(stored.start[i])) result[i] -= stored.start[i];
    return result;
  }
  double loss() const {
    double sum = 0;
    for (const auto& [name, stored] : stored_) {
      if (!stored_.count(cotangent_name(name))) continue;
      const std::vector<double> output = values(name), weight = values(cotangent_name(name));
      for (size_t i = 0; i < output.size(); ++i)
        if (!std::isnan(weight[i])) sum += output[i] * weight[i];  // NaN: a row that must not be read
    }
    return sum;
  }
  // The bytes of a tensor's elements.
  std::string bits(const std::string& name) const {
    const Tensor& tensor = stored_.at(name).tensor;
    std::string result;
    for (int64_t r = 0; r < tensor.rows; ++r)
      result.append(static_cast<const char*>(tensor.rows_of(r, 1).data),
                    static_cast<size_t>(tensor.cols * size_of(tensor.dtype)));
    return result;
  }
  // That nothing but the elements of outputs has changed.
  void expect_only_outputs_written() const {
    for (const auto& [name, stored] : stored_) {
      std::vector<char> now = stored.now();
      const Tensor& tensor = stored.tensor;
      for (int64_t r = 0; stored.role == Role::output && r < tensor.rows; ++r) {
        const auto offset = static_cast<const char*>(tensor.rows_of(r, 1).data) - stored.memory;
        std::memcpy(now.data() + offset, stored.before.data() + offset,
                    static_cast<size_t>(tensor.cols * size_of(tensor.dtype)));
      }
      EXPECT_TRUE(now == stored.before) << name << " was written where it must not be";
    }
  }

 private:
  enum class Role { input, output };
  struct Stored {
    Role role;
    Tensor tensor;
    char* memory;  // what the tensor lies in
    int64_t bytes;
    std::vector<char> before;  // a copy from before the op
    std::vector<char> now() const { return {memory, memory + bytes}; }
    std::vector<double> start;
  };
  struct Move {
    int64_t index;
    double by;
  };
  static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  static constexpr int64_t kGap = 3, kMargin = 17;  // in elements; odd, so that rows are not aligned

  static std::string cotangent_name(const std::string& name) { return "cotangent of " + name; }
  static std::string gradient_name(const std::string& name) { return "gradient of " + name; }

  static double get(const Tensor& tensor, int64_t r, int64_t c) {
    return tensor.dtype == DType::f64 ? tensor.row<double>(r)[c]
                                      : static_cast<double>(tensor.row<float>(r)[c]);
  }
  static void set(const Tensor& tensor, int64_t r, int64_t c, double value) {
    if (tensor.dtype == DType::f64) {
      tensor.row<double>(r)[c] = value;
    } else {
      tensor.row<float>(r)[c] = static_cast<float>(value);
    }
  }

  Stored& find(const std::string& name) {
    const auto found = stored_.find(name);
    if (found == stored_.end()) fail("the test has no tensor named {}", name);
    return found->second;
  }

  Tensor store(const std::string& name, Role role, int64_t rows, int64_t cols, double low, double high) {
    return store(name, role, rows, cols, low, high, backend_.dtype);
  }
  Tensor store(const std::string& name, Role role, int64_t rows, int64_t cols, double low, double high,
               DType dtype) {
    const auto [position, is_new] = stored_.try_emplace(name);
    Stored& stored = position->second;
    if (!is_new) {
      HARMONIC_ASSERT(stored.tensor.rows == rows && stored.tensor.cols == cols && stored.role == role);
      return stored.tensor;
    }
    const int64_t stride = cols + kGap, elements = kMargin + rows * stride + kMargin;
    stored.role = role;
    stored.bytes = elements * size_of(dtype);
    stored.memory = static_cast<char*>(tensors_.allocate(stored.bytes, MemoryUse::tensors));
    // What surrounds the elements is NaN: reading it is noticed too, where it enters a result.
    const Tensor all = {stored.memory, 1, elements, elements, dtype, Device::cpu};
    for (int64_t i = 0; i < elements; ++i) set(all, 0, i, kNan);
    stored.tensor = {stored.memory + kMargin * size_of(dtype), rows, cols, stride, dtype, Device::cpu};
    const Random random(1, stream_of(name));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const double uniform = random.uniform(static_cast<uint64_t>(r * cols + c));
        stored.start.push_back(static_cast<double>(static_cast<float>(low + (high - low) * uniform)));
        set(stored.tensor, r, c, stored.start.back());
      }
    }
    const auto move = moves_.find(name);
    if (move != moves_.end()) {
      const int64_t r = move->second.index / cols, c = move->second.index % cols;
      set(stored.tensor, r, c, get(stored.tensor, r, c) + move->second.by);
    }
    stored.before = stored.now();
    return stored.tensor;
  }

  const Backend& backend_;
  ThreadPool pool_;
  Arena scratch_, temporaries_, tensors_;
  std::map<std::string, Stored> stored_;
  std::map<std::string, Move> moves_;
  std::deque<std::vector<int32_t>> integers_;
  std::deque<std::vector<int64_t>> numbers_;
  std::deque<std::vector<uint8_t>> flags_;
};

using OpBody = std::function<void(Trial&)>;

// ||difference|| / ||expected||; infinite where something is not finite.
inline double relative_error(const std::vector<double>& found, const std::vector<double>& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  if (difference == 0) return 0;
  const double error = std::sqrt(difference / size);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

// A backend under test, with the relative error that rounding alone explains.
struct TestedBackend {
  const Backend& backend;
  double tolerance;
};
inline std::vector<TestedBackend> tested_backends() {
  std::vector<TestedBackend> all = {
      {reference_backend(), 1e-14}, {cpu_backend(), 1e-5}, {emulated_cuda_backend(), 1e-5}};
  if (a_card_is_tested()) all.push_back({*cuda_plugin().f32, 2e-5});
  return all;
}

// `looser` multiplies the tolerances, by tensor: for sums that cancel, with the reason beside it.
inline void expect_matches(const Backend& reference, const std::vector<TestedBackend>& backends,
                           const OpBody& body, const std::string& where,
                           const std::map<std::string, double>& looser = {}) {
  SCOPED_TRACE(where);
  Trial expected(reference, 1);
  body(expected);
  for (const TestedBackend& tested : backends) {
    Trial found(tested.backend, 2);
    body(found);
    found.expect_only_outputs_written();
    for (const std::string& name : expected.outputs()) {
      const auto factor = looser.find(name);
      EXPECT_LE(relative_error(found.values(name), expected.values(name)),
                tested.tolerance * (factor == looser.end() ? 1 : factor->second))
          << name << " on " << tested.backend.name;
    }
  }
}

inline void expect_matches_reference(const OpBody& body, const std::string& where,
                                     const std::map<std::string, double>& looser = {}) {
  expect_matches(reference_backend(), tested_backends(), body, where, looser);
}

// Products in bf16, where the processor has them, against their own definition.
inline void expect_matches_bf16_reference(const OpBody& body, const std::string& where,
                                          double tolerance = 1e-5) {
  expect_matches(reference_bf16_backend(), {{cpu_bf16_backend(), tolerance}}, body, where);
}

// Every gradient that the body asks for, by central differences in double precision.
inline void expect_gradients_equal_differences(const OpBody& body, double tolerance = 1e-7) {
  constexpr double kStep = 1e-5;
  Trial trial(reference_backend(), 1);
  body(trial);
  for (const std::string& name : trial.inputs_with_gradients()) {
    const auto count = static_cast<int64_t>(trial.values(name).size());
    std::vector<double> differences;
    for (int64_t i = 0; i < count; ++i) {
      const auto loss_at = [&](double by) {
        Trial moved(reference_backend(), 1);
        moved.move(name, i, by);
        body(moved);
        return moved.loss();
      };
      differences.push_back((loss_at(kStep) - loss_at(-kStep)) / (2 * kStep));
    }
    EXPECT_GT(std::inner_product(differences.begin(), differences.end(), differences.begin(), 0.0), 0)
        << name << " has no influence, so that its gradient shows nothing";
    EXPECT_LE(relative_error(trial.gradient_values(name), differences), tolerance) << name;
  }
}

// On a card: an output for matrix products alone has the same numbers as bf16, rounded, as it has in f32. The
// body runs the op with that output.
inline void expect_rounded_for_products(int64_t rows, int64_t cols,
                                        const std::function<void(Trial&, const Tensor&)>& body) {
  for (const TestedBackend& tested : tested_backends()) {
    if (tested.backend.device != Device::cuda) continue;
    SCOPED_TRACE(fmt::format("{} rows of {} on {}", rows, cols, tested.backend.name));
    Trial trial(tested.backend, 1);
    const Tensor y = trial.temporary(rows, cols);
    Tensor halves = trial.temporary(rows, cols);
    halves.dtype = DType::bf16;
    body(trial, y);
    body(trial, halves);
    const auto* bits = static_cast<const uint16_t*>(halves.data);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float number = y.as<float>()[i];
      ASSERT_TRUE(std::isfinite(number));
      ASSERT_EQ(float_of_bf16(bits[i]), static_cast<float>(reference::rounded_to_bf16(number))) << i;
    }
  }
}

// One and two threads, every vector instruction set of this processor: the same bits.
inline void expect_same_bits_on_every_machine(const OpBody& body, const std::string& where) {
  SCOPED_TRACE(where);
  Trial first(cpu_backend(), 1);
  body(first);
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    for (const int threads : {1, 2}) {
      Trial again(cpu_backend(), threads);
      body(again);
      for (const std::string& name : first.outputs())
        EXPECT_TRUE(again.bits(name) == first.bits(name))
            << name << " with " << target << " and " << threads << " threads";
    }
  }
}

// The sizes that every op is tried with.
inline constexpr int64_t kRowCounts[] = {0, 1, 3, 63, 64, 65, 200, 500};
inline constexpr int64_t kChannelCounts[] = {1, 7, 16, 33, 64, 130};

// Calls test(rows, channels, where) for all of them.
template <typename Test>
void for_all_sizes(const Test& test) {
  for (const int64_t rows : kRowCounts)
    for (const int64_t channels : kChannelCounts)
      test(rows, channels, fmt::format("{} rows, {} channels", rows, channels));
}

// Sequences that have `rows` rows together: one of a single row, an empty one, two of random lengths.
inline std::vector<int64_t> sequence_lengths(int64_t rows) {
  const int64_t one = rows > 0 ? 1 : 0;
  const auto cut = static_cast<int64_t>(
      Random(2, 0).below(static_cast<uint64_t>(rows), static_cast<uint64_t>(rows - one) + 1));
  return {cut, 0, one, rows - one - cut};
}
inline int64_t total(const std::vector<int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

}  // namespace harmonic
