// Weights as the blocks of a GGUF file: products, rows and losses have the bits of the numbers they stand
// for.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "harmonic/base/half.h"
#include "harmonic/base/random.h"
#include "harmonic/ops/backend.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/simd_targets.h"

namespace harmonic {
namespace {

constexpr DType kFormats[] = {DType::q8_0, DType::q4_1};

// Blocks of a matrix of rows, as a file has them, and their numbers by the definition of the format.
struct Blocks {
  Blocks(int64_t rows, int64_t columns, DType format, uint64_t seed)
      : values(static_cast<size_t>(rows * columns)) {
    const Random random(seed, 2);
    uint64_t drawn = 0;
    const auto byte = [&] { return static_cast<uint8_t>(random.below(drawn++, 256)); };
    for (int64_t block = 0; block < rows * columns / kBlockNumbers; ++block) {
      const float d = scale(block), m = format == DType::q4_1 ? scale(block + 3) : 0;
      float* out = values.data() + block * kBlockNumbers;
      for (int64_t i = 0; i < (format == DType::q8_0 ? 32 : 16); ++i) {
        const uint8_t q = byte();
        bytes.push_back(q);
        if (format == DType::q8_0) {
          out[i] = static_cast<float>(static_cast<int8_t>(q)) * d;
        } else {
          out[i] = d * static_cast<float>(q % 16) + m;
          out[16 + i] = d * static_cast<float>(q / 16) + m;
        }
      }
      std::vector<uint8_t> scales(bytes.end() - (format == DType::q8_0 ? 32 : 16), bytes.end());
      bytes.resize(bytes.size() - scales.size());
      for (int64_t i = 0; i < (format == DType::q8_0 ? 1 : 2); ++i) {
        const uint16_t bits = kScales[(block + 3 * i) % 8];
        bytes.push_back(static_cast<uint8_t>(bits & 255));
        bytes.push_back(static_cast<uint8_t>(bits >> 8));
      }
      bytes.insert(bytes.end(), scales.begin(), scales.end());
    }
  }
  // f16: ordinary ones, zeros of both signs, the smallest and the largest that are no normal numbers.
  static constexpr uint16_t kScales[8] = {0x2e66, 0x0000, 0xae10, 0x8000, 0x0001, 0x83ff, 0x3555, 0x9c01};
  static float scale(int64_t i) { return float_of_f16(kScales[i % 8]); }

  std::vector<uint8_t> bytes;
  std::vector<float> values;
};

class BlockWeights : public testing::Test {
 protected:
  Tensor matrix(int64_t rows, int64_t cols, uint64_t seed) {
    const Tensor tensor = arena_.tensor(rows, cols, DType::f32);
    const Random random(seed, 1);
    for (int64_t i = 0; i < rows * cols; ++i)
      tensor.as<float>()[i] = static_cast<float>(2 * random.uniform(static_cast<uint64_t>(i)) - 1);
    return tensor;
  }
  Tensor pack(const Blocks& blocks, int64_t rows, int64_t columns, DType format) {
    const Tensor packed = arena_.tensor(1, packed_weight_size(rows, columns, format), format);
    pack_blocks(pool_, columns, rows, blocks.bytes.data(), format, packed.data);
    return packed;
  }
  static Tensor view(const Blocks& blocks, int64_t rows, int64_t columns) {
    return {const_cast<float*>(blocks.values.data()), rows, columns, columns, DType::f32, Device::cpu};
  }
  static bool same_bits(const Tensor& a, const Tensor& b) {
    return std::memcmp(a.data, b.data, static_cast<size_t>(a.size()) * sizeof(float)) == 0;
  }

  Arena arena_, scratch_;
  ThreadPool pool_{2};
};

TEST_F(BlockWeights, AreReadBackToTheBit) {
  Context context{pool_, scratch_};
  for (const DType format : kFormats) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 32}, {16, 64}, {37, 608}}) {
      const Blocks blocks(rows, columns, format, 3);
      const Tensor packed = pack(blocks, rows, columns, format), weight = view(blocks, rows, columns);
      const Tensor tokens = arena_.tensor(1, rows, DType::i32), y = arena_.tensor(rows, columns, DType::f32);
      for (int64_t r = 0; r < rows; ++r) tokens.as<int32_t>()[r] = static_cast<int32_t>(r);
      cpu_backend()(context, Embedding{tokens, {nullptr, rows, columns, columns}, packed, y});
      EXPECT_TRUE(same_bits(y, weight)) << name_of(format) << " " << rows << " x " << columns;
    }
  }
}

TEST_F(BlockWeights, ProductsHaveTheBitsOfTheirNumbers) {
  ThreadPool one(1);
  Context first{one, scratch_};
  for (const DType format : kFormats) {
    for (const auto& [inputs, outputs] :
         {std::pair<int64_t, int64_t>{32, 1}, {64, 17}, {320, 70}, {608, 130}, {64, 1100}}) {
      const Blocks blocks(outputs, inputs, format, 7);
      const Tensor weight = view(blocks, outputs, inputs), packed = pack(blocks, outputs, inputs, format);
      const Tensor no_data = {nullptr, outputs, inputs, inputs};
      const Tensor bias = matrix(1, outputs, 8);
      for (const int64_t rows : {1, 2, 3, 6, 7, 14, 15, 29, 64, 350}) {
        const ArenaScope scope(arena_);
        const Tensor x = matrix(rows, inputs, 9), base = matrix(rows, outputs, 10);
        const Tensor expected = arena_.tensor(rows, outputs, DType::f32);
        const Tensor found = arena_.tensor(rows, outputs, DType::f32);
        for (const bool negate : {false, true}) {
          const auto product = [&](Context& context, const Tensor& w, const Tensor& with, const Tensor& y) {
            cpu_backend()(context,
                          Linear{x, w, with, negate ? Tensor{} : bias, negate ? base : Tensor{}, negate, y});
          };
          product(first, weight, {}, expected);
          for (const std::string_view target : simd_target_names()) {
            const UseSimdTarget use(target);
            for (const int threads : {1, 2}) {
              ThreadPool pool(threads);
              Context context{pool, scratch_};
              std::fill_n(found.as<float>(), found.size(), std::nanf(""));
              product(context, no_data, packed, found);
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

TEST_F(BlockWeights, LossesHaveTheBitsOfTheirNumbers) {
  Context context{pool_, scratch_};
  for (const DType format : kFormats) {
    const Blocks blocks(77, 96, format, 11);
    const Tensor head = view(blocks, 77, 96), packed = pack(blocks, 77, 96, format);
    for (const int64_t rows : {1, 20, 300}) {
      const Tensor x = matrix(rows, 96, 12), targets = arena_.tensor(1, rows, DType::i32);
      for (int64_t r = 0; r < rows; ++r) targets.as<int32_t>()[r] = static_cast<int32_t>(r % 77);
      const Tensor expected = arena_.tensor(1, rows, DType::f32), found = arena_.tensor(1, rows, DType::f32);
      cpu_backend()(context, LinearCrossEntropy{x, head, {}, targets, expected, 1, {}, {}});
      cpu_backend()(context, LinearCrossEntropy{x, {nullptr, 77, 96, 96}, packed, targets, found, 1, {}, {}});
      EXPECT_TRUE(same_bits(found, expected)) << name_of(format) << ", " << rows << " rows";
    }
  }
}

TEST_F(BlockWeights, TakeTheBytesOfTheFile) {
  for (const DType format : kFormats)
    EXPECT_EQ(packed_size(96, 64, format), static_cast<int64_t>(Blocks(64, 96, format, 1).bytes.size()));
}

}  // namespace
}  // namespace harmonic
