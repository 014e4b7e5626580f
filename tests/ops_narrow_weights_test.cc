// Weights as bf16 and int8: what is kept, and that products give the bits of what is kept.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "emulated_cuda.h"
#include "harmonic/base/checked.h"
#include "harmonic/base/random.h"
#include "harmonic/ops/backend.h"
#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {
namespace {

constexpr DType kFormats[] = {DType::bf16, DType::i8};

class NarrowWeights : public testing::Test {
 protected:
  static Tensor matrix(Arena& arena, int64_t rows, int64_t cols, uint64_t seed) {
    const Tensor tensor = arena.tensor(rows, cols, DType::f32);
    const Random random(seed, 1);
    for (int64_t i = 0; i < rows * cols; ++i)
      tensor.as<float>()[i] = static_cast<float>(2 * random.uniform(static_cast<uint64_t>(i)) - 1);
    return tensor;
  }
  // Rounds the weight and packs it.
  Tensor pack(Context& context, const Tensor& weight, DType format) {
    const Tensor packed = arena_.tensor(1, packed_weight_size(weight.rows, weight.cols, format), format);
    cpu_backend()(context, PackWeight{weight, packed, format});
    return packed;
  }
  static bool same_bits(const Tensor& a, const Tensor& b) {
    return std::memcmp(a.data, b.data, static_cast<size_t>(a.size()) * sizeof(float)) == 0;
  }

  Arena arena_, scratch_;
};

TEST_F(NarrowWeights, AreRoundedAsTheReferenceRoundsThem) {
  ThreadPool pool(2);
  Context context{pool, scratch_};
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const DType format : kFormats) {
    for (const int64_t cols : {1, 15, 16, 70}) {
      const Tensor weight = matrix(arena_, 40, cols, 3);
      for (int64_t c = 0; c < cols; ++c) {
        weight.row<float>(1)[c] = 0;
        weight.row<float>(2)[c] *= 1e-33f;
        weight.row<float>(3)[c] *= 1e30f;
        weight.row<float>(4)[c] = c == cols - 1 ? kInfinity : 1.0f;
        weight.row<float>(5)[c] = c == 0 ? std::nanf("") : 1.0f;
        weight.row<float>(6)[c] = static_cast<float>(c) + 0.5f;  // ties
        weight.row<float>(7)[c] = 1.0f + 0x1p-8f * static_cast<float>(c);
      }
      const Tensor expected = arena_.tensor(40, cols, DType::f64);
      for (int64_t r = 0; r < 40; ++r)
        for (int64_t c = 0; c < cols; ++c) expected.row<double>(r)[c] = weight.row<float>(r)[c];
      const Tensor copy = arena_.tensor(1, 40 * cols, DType::f64);
      reference_backend()(context, PackWeight{expected, copy, format});
      pack(context, weight, format);
      for (int64_t r = 0; r < 40; ++r) {
        for (int64_t c = 0; c < cols; ++c) {
          const double found = weight.row<float>(r)[c], wanted = expected.row<double>(r)[c];
          EXPECT_TRUE(found == wanted || (std::isnan(found) && std::isnan(wanted)))
              << name_of(format) << " " << r << "," << c << ": " << found << " and not " << wanted;
        }
      }
    }
  }
}

TEST_F(NarrowWeights, AreNoFartherFromTheOriginalThanHalfAStep) {
  ThreadPool pool(1);
  Context context{pool, scratch_};
  for (const DType format : kFormats) {
    const Tensor before = matrix(arena_, 30, 50, 5), weight = matrix(arena_, 30, 50, 5);
    pack(context, weight, format);
    int64_t changed = 0;
    for (int64_t r = 0; r < 30; ++r) {
      float largest = 0;
      for (int64_t c = 0; c < 50; ++c) largest = std::max(largest, std::abs(before.row<float>(r)[c]));
      for (int64_t c = 0; c < 50; ++c) {
        const float w = before.row<float>(r)[c], by = std::abs(weight.row<float>(r)[c] - w);
        EXPECT_LE(by, format == DType::bf16 ? std::abs(w) * 0x1.01p-8f : largest / 253) << r << "," << c;
        changed += by > 0;
      }
    }
    EXPECT_GT(changed, 1000);
  }
}

// The promise of bits, for narrow weights: few rows and many, whatever the threads and the vectors, give what
// the rounded matrix gives in f32.
TEST_F(NarrowWeights, ProductsHaveTheBitsOfTheRoundedMatrix) {
  for (const DType format : kFormats) {
    for (const auto& [inputs, outputs] :
         {std::pair<int64_t, int64_t>{1, 1}, {33, 17}, {300, 70}, {600, 130}}) {
      ThreadPool one(1);
      Context first{one, scratch_};
      const Tensor weight = matrix(arena_, outputs, inputs, 7), bias = matrix(arena_, 1, outputs, 8);
      const Tensor packed = pack(first, weight, format);
      for (const int64_t rows : {1, 2, 3, 6, 7, 14, 15, 29, 64, 400}) {
        const ArenaScope scope(arena_);
        const Tensor x = matrix(arena_, rows, inputs, 9), base = matrix(arena_, rows, outputs, 10);
        const Tensor expected = arena_.tensor(rows, outputs, DType::f32);
        const Tensor found = arena_.tensor(rows, outputs, DType::f32);
        for (const bool negate : {false, true}) {
          const auto product = [&](Context& context, const Tensor& with, const Tensor& y) {
            cpu_backend()(context, Linear{x, weight, with, negate ? Tensor{} : bias, negate ? base : Tensor{},
                                          negate, y});
          };
          product(first, {}, expected);
          for (const std::string_view target : simd_target_names()) {
            const UseSimdTarget use(target);
            for (const int threads : {1, 2}) {
              ThreadPool pool(threads);
              Context context{pool, scratch_};
              std::fill_n(found.as<float>(), found.size(), std::nanf(""));
              product(context, packed, found);
              EXPECT_TRUE(same_bits(found, expected))
                  << name_of(format) << ", " << rows << " x " << inputs << " x " << outputs << ", " << target
                  << ", " << threads << " threads";
            }
          }
        }
      }
    }
  }
}

TEST_F(NarrowWeights, LossesHaveTheBitsOfTheRoundedHead) {
  ThreadPool pool(2);
  Context context{pool, scratch_};
  for (const DType format : kFormats) {
    const Tensor head = matrix(arena_, 77, 40, 11);
    const Tensor packed = pack(context, head, format);
    for (const int64_t rows : {1, 20, 300}) {
      const Tensor x = matrix(arena_, rows, 40, 12);
      const Tensor targets = arena_.tensor(1, rows, DType::i32);
      for (int64_t r = 0; r < rows; ++r) targets.as<int32_t>()[r] = static_cast<int32_t>(r % 77);
      const Tensor expected = arena_.tensor(1, rows, DType::f32), found = arena_.tensor(1, rows, DType::f32);
      cpu_backend()(context, LinearCrossEntropy{x, head, {}, targets, expected, 1, {}, {}});
      cpu_backend()(context, LinearCrossEntropy{x, head, packed, targets, found, 1, {}, {}});
      EXPECT_TRUE(same_bits(found, expected)) << name_of(format) << ", " << rows << " rows";
    }
  }
}

// A weight that is part of a wider matrix, and a packed form with other memory on both sides.
TEST_F(NarrowWeights, PackingTouchesNothingBesideThem) {
  constexpr int64_t kGuard = 64;
  ThreadPool pool(2);
  Context context{pool, scratch_};
  for (const DType format : kFormats) {
    const Tensor wide = matrix(arena_, 19, 50, 13), before = matrix(arena_, 19, 50, 13);
    const int64_t size = packed_weight_size(19, 33, format);
    std::vector<char> memory(static_cast<size_t>(size * size_of(format) + 2 * kGuard), 0x5a);
    const Tensor packed = {memory.data() + kGuard, 1, size, size, format, Device::cpu};
    cpu_backend()(context, PackWeight{wide.columns(7, 33), packed, format});
    for (int64_t r = 0; r < 19; ++r) {
      for (int64_t c = 0; c < 50; ++c) {
        if (c >= 7 && c < 40) continue;
        EXPECT_EQ(wide.row<float>(r)[c], before.row<float>(r)[c]) << r << "," << c;
      }
    }
    for (size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(memory[i], 0x5a) << i;
      EXPECT_EQ(memory[memory.size() - 1 - i], 0x5a) << i << " from the end";
    }
  }
}

TEST_F(NarrowWeights, TakeAHalfAndAQuarterOfTheMemory) {
  const int64_t f32 = packed_size(512, 512) * size_of(DType::f32);
  EXPECT_EQ(packed_size(512, 512, DType::bf16) * size_of(DType::bf16), f32 / 2);
  EXPECT_EQ(packed_size(512, 512, DType::i8) * size_of(DType::i8), f32 / 4 + 512 * 4);
}

// --- The same on a card, whose promise is not of bits.

std::vector<const Backend*> device_backends() {
  std::vector<const Backend*> all = {&emulated_cuda_backend(), &emulated_cuda_bf16_backend(),
                                     &emulated_cuda_device_backend()};
  if (a_card_is_tested()) all.insert(all.end(), {cuda_plugin().f32, cuda_plugin().bf16});
  return all;
}

class WeightsOnADevice : public testing::TestWithParam<const Backend*> {
 protected:
  WeightsOnADevice()
      : pool_(1), arena_(backend_.memory), scratch_(backend_.memory), context_{pool_, scratch_} {}

  Tensor matrix(int64_t rows, int64_t cols, uint64_t seed) {
    const Tensor tensor = arena_.tensor(rows, cols, DType::f32);
    const Random random(seed, 1);
    for (int64_t i = 0; i < rows * cols; ++i)
      tensor.as<float>()[i] = static_cast<float>(2 * random.uniform(static_cast<uint64_t>(i)) - 1);
    return tensor;
  }
  Tensor nothing(int64_t rows, int64_t cols) {
    const Tensor tensor = arena_.tensor(rows, cols, DType::f32);
    std::fill_n(tensor.as<float>(), tensor.size(), std::nanf(""));
    return tensor;
  }
  // Null for f32.
  Tensor pack(const Tensor& weight, DType format) {
    if (format == DType::f32) return {};
    Tensor packed =
        arena_.tensor(1, packed_weight_size(weight.rows, weight.cols, format, Device::cuda), format);
    packed.device = Device::cuda;
    std::memset(packed.data, 0xff, static_cast<size_t>(packed.size() * size_of(format)));
    run(PackWeight{weight, packed, format});
    return packed;
  }
  template <typename Op>
  void run(const Op& op) {
    backend_(context_, op);
    backend_.synchronize();
  }
  static Tensor without_data(Tensor tensor) {
    tensor.data = nullptr;
    return tensor;
  }
  bool rounds() const {
    return backend_.precision == Precision::bf16 || &backend_ == &emulated_cuda_bf16_backend();
  }
  // Of operands: to the nearest number of bf16.
  double operand(float value) const {
    if (!rounds()) return value;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  const Backend& backend_ = *GetParam();
  ThreadPool pool_;
  Arena arena_, scratch_;
  Context context_;
};

TEST_P(WeightsOnADevice, AreRoundedAndPackedAsTheReferenceRoundsThem) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const DType format : kFormats) {
    for (const int64_t cols : {1, 15, 16, 70}) {
      const Tensor weight = matrix(9, cols, 3);
      for (int64_t c = 0; c < cols; ++c) {
        weight.row<float>(1)[c] = 0;
        weight.row<float>(2)[c] *= 1e-33f;
        weight.row<float>(3)[c] *= 1e30f;
        weight.row<float>(4)[c] = c == cols - 1 ? kInfinity : 1.0f;
        weight.row<float>(5)[c] = c == 0 ? std::nanf("") : 1.0f;
        weight.row<float>(6)[c] = static_cast<float>(c) + 0.5f;  // ties
      }
      Arena memory;
      const Tensor expected = memory.tensor(9, cols, DType::f64),
                   copy = memory.tensor(1, 9 * cols, DType::f64);
      for (int64_t r = 0; r < 9; ++r)
        for (int64_t c = 0; c < cols; ++c) expected.row<double>(r)[c] = weight.row<float>(r)[c];
      Context context{pool_, memory};
      reference_backend()(context, PackWeight{expected, copy, format});
      const Tensor packed = pack(weight, format);
      std::vector<float> unpacked(static_cast<size_t>(cols));
      for (int64_t r = 0; r < 9; ++r) {
        unpack_row(packed, 9, cols, r, unpacked.data());
        for (int64_t c = 0; c < cols; ++c) {
          const double found = weight.row<float>(r)[c], wanted = expected.row<double>(r)[c];
          EXPECT_TRUE(found == wanted || (std::isnan(found) && std::isnan(wanted)))
              << name_of(format) << " " << r << "," << c << ": " << found << " and not " << wanted;
          const double held = unpacked[static_cast<size_t>(c)];
          EXPECT_TRUE(held == wanted || (std::isnan(held) && std::isnan(wanted))) << name_of(format) << held;
        }
      }
    }
  }
}

// Few rows and many, sizes that no block, warp or load divides, and several turns of the loop over K.
TEST_P(WeightsOnADevice, GiveTheProductsOfWhatTheyHold) {
  for (const DType format : {DType::f32, DType::bf16, DType::i8}) {
    for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{1, 1},
                                          {33, 17},
                                          {300, 70},
                                          {520, 13},
                                          {1024, 5},
                                          {2100, 1100},
                                          {9000, 3}}) {
      const ArenaScope all(arena_);
      const Tensor weight = matrix(outputs, inputs, 7), bias = matrix(1, outputs, 8);
      const Tensor packed = pack(weight, format);
      for (const int64_t rows : {1, 2, 3, 7, 8, 9, 16, 17, 33, 65}) {
        if (rows > (outputs > 1000 ? 1 : 9) && inputs > 1000) continue;
        const ArenaScope scope(arena_);
        const Tensor x = matrix(rows, inputs, 9), base = matrix(rows, outputs, 10);
        for (const bool negate : {false, true}) {
          const Tensor y = nothing(rows, outputs);
          run(Linear{x, packed ? without_data(weight) : weight, packed, negate ? Tensor{} : bias, base,
                     negate, y});
          double difference = 0, size = 0;
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t m = 0; m < outputs; ++m) {
              double sum = base.row<float>(r)[m] + (negate ? 0 : bias.as<float>()[m]);
              for (int64_t k = 0; k < inputs; ++k)
                sum += (negate ? -1 : 1) * operand(x.row<float>(r)[k]) *
                       (format == DType::i8 ? weight.row<float>(m)[k] : operand(weight.row<float>(m)[k]));
              const double by = y.row<float>(r)[m] - sum;
              difference += by * by;
              size += sum * sum;
            }
          }
          // On a bf16 backend i8's numbers are rounded, as an operand, where there are many rows.
          EXPECT_LE(std::sqrt(difference / size), rounds() && format == DType::i8 ? 4e-3 : 1e-5)
              << name_of(format) << ", " << rows << " x " << inputs << " x " << outputs;
        }
      }
    }
  }
}

// As activations that products alone read are kept (Tape::operand).
TEST_P(WeightsOnADevice, TakeRowsOfHalvesAsTheyAre) {
  if (!rounds()) return;  // products in f32 take none
  constexpr int64_t kRows = 70;
  for (const auto& [inputs, outputs] :
       {std::pair<int64_t, int64_t>{64, 32}, {33, 17}, {300, 70}, {520, 13}}) {
    const ArenaScope scope(arena_);
    const Tensor weight = matrix(outputs, inputs, 7), x = matrix(kRows, inputs, 9);
    Tensor halves = nothing(kRows, round_up(inputs, 8));
    halves.dtype = DType::bf16;
    halves.cols = inputs;
    auto* numbers = static_cast<uint16_t*>(halves.data);
    for (int64_t r = 0; r < kRows; ++r)
      for (int64_t k = 0; k < inputs; ++k) {
        const auto rounded = static_cast<float>(operand(x.row<float>(r)[k]));
        uint32_t bits;
        std::memcpy(&bits, &rounded, sizeof(bits));
        numbers[r * halves.stride + k] = static_cast<uint16_t>(bits >> 16);
      }
    const Tensor packed = pack(weight, DType::bf16);
    const Tensor y = nothing(kRows, outputs), of_halves = nothing(kRows, outputs);
    run(Linear{x, without_data(weight), packed, {}, {}, false, y});
    run(Linear{halves, without_data(weight), packed, {}, {}, false, of_halves});
    double difference = 0, size = 0;
    for (int64_t i = 0; i < kRows * outputs; ++i) {
      const double by = of_halves.as<float>()[i] - y.as<float>()[i];
      difference += by * by;
      size += y.as<float>()[i] * y.as<float>()[i];
    }
    EXPECT_LE(std::sqrt(difference / size), 1e-6) << inputs << " x " << outputs;
  }
}

TEST_P(WeightsOnADevice, ARowOfFewDoesNotDependOnTheRowsBesideIt) {
  for (const DType format : {DType::f32, DType::bf16, DType::i8}) {
    const Tensor weight = matrix(40, 600, 7), x = matrix(8, 600, 9);
    const Tensor packed = pack(weight, format), whole = nothing(8, 40), part = nothing(7, 40);
    run(Linear{x, weight, packed, {}, {}, false, whole});
    run(Linear{x.rows_of(1, 7), weight, packed, {}, {}, false, part});
    EXPECT_EQ(std::memcmp(whole.row<float>(1), part.data, 7 * 40 * sizeof(float)), 0) << name_of(format);
  }
}

TEST_P(WeightsOnADevice, GiveTheLossesAndTheEmbeddingsOfWhatTheyHold) {
  for (const DType format : kFormats) {
    const Tensor head = matrix(77, 40, 11), packed = pack(head, format), x = matrix(20, 40, 12);
    std::vector<int32_t> words;
    for (int32_t r = 0; r < 20; ++r) words.push_back(r * 31 % 77);
    const Tensor targets = {words.data(), 1, 20, 20, DType::i32, Device::cpu};
    const Tensor expected = nothing(1, 20), found = nothing(1, 20), rows = nothing(20, 40);
    run(LinearCrossEntropy{x, head, {}, targets, expected, 1, {}, {}});
    run(LinearCrossEntropy{x, without_data(head), packed, targets, found, 1, {}, {}});
    run(Embedding{targets, without_data(head), packed, rows});
    for (int64_t r = 0; r < 20; ++r) {
      EXPECT_NEAR(found.as<float>()[r], expected.as<float>()[r], 1e-5) << name_of(format);
      for (int64_t c = 0; c < 40; ++c) EXPECT_EQ(rows.row<float>(r)[c], head.row<float>(words[r])[c]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, WeightsOnADevice, testing::ValuesIn(device_backends()),
                         [](const auto& backend) { return fmt::format("{}", backend.index); });

}  // namespace
}  // namespace harmonic
