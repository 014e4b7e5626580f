#include "harmonic/ops/few_rows_cuda.h"

#include "harmonic/ops/cuda_mma.h"
#include "harmonic/ops/packed_weight_cuda.h"

// The warps of a block share out K: each keeps its pieces of x in registers and reads the same pieces of one
// row of the weight after the other, 16 bytes a lane, several loads before the first is used. What the lanes
// of a warp have is summed by exchanges, what the warps have in shared memory, always in one order.
namespace harmonic::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kMostRows = 8;        // of x, of one block
constexpr int kBlocksWanted = 264;  // two for each multiprocessor of a card, where there is work for them
constexpr int64_t kMostPrefetched = 64 << 10;  // by a block: all of them far less than the cache holds
constexpr int kMostOutputs = 64;               // rows of the weight, of one block

struct alignas(16) Words {
  uint32_t word[4];
};

__device__ inline float rounded(float value) { return float_of_bf16(bf16_of(value)); }

// --- What a weight's rows are: load(row, k) gives kNumbers of them, of which number(words, i) is the i-th.

// Rounded to bf16, as an operand, or not.
template <bool kAligned, bool kRounds>
struct F32Rows {
  static constexpr bool kIsPacked = false;
  static constexpr int kNumbers = 4;
  const float* data;
  int64_t stride, k;

  // Numbers that the row does not have are 0.
  __device__ Words load(int64_t row, int64_t at) const {
    const float* from = data + row * stride + at;
    if constexpr (kAligned) return *reinterpret_cast<const Words*>(from);
    Words words = {};
    for (int i = 0; i < kNumbers; ++i)
      if (at + i < k) memcpy(&words.word[i], from + i, sizeof(float));
    return words;
  }
  __device__ float number(const Words& words, int i) const {
    const float value = float_of(words.word[i]);
    return kRounds ? rounded(value) : value;
  }
  __device__ float scale(int64_t) const { return 1; }
  __device__ const char* bytes_at(int64_t row) const {
    return reinterpret_cast<const char*>(data + row * stride);
  }
};

struct Bf16Rows {
  static constexpr bool kIsPacked = true;
  static constexpr int kNumbers = 8;
  PackedRows rows;

  __device__ Words load(int64_t row, int64_t at) const {
    return *reinterpret_cast<const Words*>(rows.data + row * rows.stride + 2 * at);
  }
  __device__ float number(const Words& words, int i) const {
    const uint32_t pair = words.word[i / 2];
    return float_of(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
  }
  __device__ float scale(int64_t) const { return 1; }
  __device__ const char* bytes_at(int64_t row) const {
    return reinterpret_cast<const char*>(rows.data + row * rows.stride);
  }
};

struct I8Rows {
  static constexpr bool kIsPacked = true;
  static constexpr int kNumbers = 16;
  PackedRows rows;

  __device__ Words load(int64_t row, int64_t at) const {
    return *reinterpret_cast<const Words*>(rows.data + row * rows.stride + at);
  }
  // A byte as the last of 2^23's bits is 2^23 + it.
  __device__ float number(const Words& words, int i) const {
    const auto selected = static_cast<uint32_t>(0x7650 | i % 4);
    return float_of(__byte_perm(words.word[i / 4], 0x4b000000u, selected)) -
           static_cast<float>((1 << 23) + kPackedZero);
  }
  __device__ float scale(int64_t row) const { return rows.scales[row]; }
  __device__ const char* bytes_at(int64_t row) const {
    return reinterpret_cast<const char*>(rows.data + row * rows.stride);
  }
};

// --- The kernel.

// The sums over the lanes of each of kCount numbers: lane l has that of number l / (32 / kCount). Each sum
// has the order that warp_sum() gives it.
template <int kCount>
__device__ float sum_each(float (&values)[kCount]) {
  const auto lane = static_cast<int>(threadIdx.x % kWarpSize);
#pragma unroll
  for (int half = kCount / 2; half > 0; half /= 2) {
    const int by = half * (kWarpSize / kCount);
    const bool upper = (lane & by) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = upper ? values[i] : values[i + half];
      const float kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(kAllLanes, sent, by);
    }
  }
  for (int by = kWarpSize / kCount / 2; by > 0; by /= 2)
    values[0] += __shfl_xor_sync(kAllLanes, values[0], by);
  return values[0];
}

// `rounds`: x, to bf16.
struct FewRows {
  Rows x, base, bias, y;
  int64_t rows, inputs, outputs;
  bool rounds, x_aligned;
  float sign;
};

// x[row][at ...], and 0 where there is none.
template <int kNumbers>
__device__ void load_x(const FewRows& p, int64_t row, int64_t at, float (&numbers)[kNumbers]) {
  const float* from = p.x[row] + at;
#pragma unroll
  for (int i = 0; i < kNumbers; i += 4) {
    if (p.x_aligned && row < p.rows && at + i + 4 <= p.inputs) {
      const Words words = *reinterpret_cast<const Words*>(from + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) numbers[i + j] = float_of(words.word[j]);
    } else {
#pragma unroll
      for (int j = i; j < i + 4; ++j) numbers[j] = row < p.rows && at + j < p.inputs ? from[j] : 0;
    }
  }
  if (!p.rounds) return;
#pragma unroll
  for (int i = 0; i < kNumbers; ++i) numbers[i] = rounded(numbers[i]);
}

template <int kRows, typename Weight>
void multiply(const Weight& weight, const FewRows& p) {
  constexpr int kNumbers = Weight::kNumbers;
  // Loads of a row of the weight, and its rows whose loads go together: x and they have to fit into
  // registers.
  constexpr int kByX = 32 / (kRows * kNumbers);
  constexpr int kLoads = kByX < 1 ? 1 : kByX > 4 ? 4 : kByX;
  constexpr int kTogether = (kRows * kNumbers > 32 ? 4 : 8) / kLoads;
  constexpr int kPiece = kNumbers * kWarpSize, kTile = kLoads * kPiece;
  const int64_t tiles = ceil_div(p.inputs, kTile);
  int slices = 1;
  while (slices < kWarps && slices < tiles) slices *= 2;
  const int groups = kWarps / slices;
  const int64_t inputs = round_up(p.inputs, kNumbers);
  const int64_t chunks = ceil_div(p.rows, kRows);
  const int64_t wanted = std::max<int64_t>(1, p.outputs * chunks / kBlocksWanted);
  const auto own = static_cast<int>(
      std::min<int64_t>(kMostOutputs, round_up(wanted, groups * kTogether)));  // rows of a block
  const int64_t blocks = ceil_div(p.outputs, own) * chunks, shared = int64_t{4} * slices * own * kRows;
  // The first of the weight comes from memory while what x is made of is computed.
  const auto prefetch_rows = [=] __device__() {
    const int64_t begin = blockIdx.x / chunks * own, end = begin + own < p.outputs ? begin + own : p.outputs;
    const char *first = weight.bytes_at(begin), *last = weight.bytes_at(end);
    if (last - first > kMostPrefetched) last = first + kMostPrefetched;
    for (first += kPrefetched * threadIdx.x; first < last; first += kPrefetched * kThreads) prefetch(first);
  };
  launch_early<kThreads>({blocks}, shared, prefetch_rows, [=] __device__() {
    auto* sums = dynamic_shared<float>();  // [slices][own][kRows]
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    const int slice = static_cast<int>(threadIdx.x / kWarpSize) % slices;
    const int group = static_cast<int>(threadIdx.x / kWarpSize) / slices;
    // Blocks that read the same rows of the weight come one after the other.
    const int64_t first_row = blockIdx.x % chunks * kRows, first = blockIdx.x / chunks * own;
    const auto count = static_cast<int>(p.outputs - first < own ? p.outputs - first : own);
    for (int64_t tile = slice; tile < tiles; tile += slices) {
      const int64_t at = tile * kTile + lane * kNumbers;
      const auto load = [&](int batch, Words(&words)[kTogether][kLoads]) {
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          const int64_t row = first + (batch + t < count ? batch + t : count - 1);
#pragma unroll
          for (int l = 0; l < kLoads; ++l)
            words[t][l] = at + l * kPiece < inputs ? weight.load(row, at + l * kPiece) : Words{};
        }
      };
      int batch = group * kTogether;
      if (batch >= count) break;
      Words words[kTogether][kLoads], next[kTogether][kLoads] = {};
      load(batch, words);
      float x[kRows][kLoads][kNumbers];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int l = 0; l < kLoads; ++l) load_x(p, first_row + r, at + l * kPiece, x[r][l]);
      while (batch < count) {
        // The next loads are on their way before the last ones are used.
        const int following = batch + groups * kTogether;
        if (following < count) load(following, next);
        __syncwarp();
#pragma unroll
        for (int t = 0; t < kTogether; ++t) {
          float own_sums[kRows] = {};
#pragma unroll
          for (int l = 0; l < kLoads; ++l)
#pragma unroll
            for (int i = 0; i < kNumbers; ++i) {
              const float number = weight.number(words[t][l], i);
#pragma unroll
              for (int r = 0; r < kRows; ++r) own_sums[r] = fmaf(number, x[r][l][i], own_sums[r]);
            }
          const float sum = sum_each<kRows>(own_sums);
          constexpr int kLanes = kWarpSize / kRows;
          if (batch + t < count && lane % kLanes == 0) {
            float& to = sums[(slice * own + batch + t) * kRows + lane / kLanes];
            to = tile == slice ? sum : to + sum;
          }
        }
#pragma unroll
        for (int t = 0; t < kTogether; ++t)
#pragma unroll
          for (int l = 0; l < kLoads; ++l) words[t][l] = next[t][l];
        batch = following;
      }
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < own * kRows; i += kThreads) {
      const int r = i / own, o = i % own;
      const int64_t row = first_row + r, output = first + o;
      if (row >= p.rows || o >= count) continue;
      const float start = (p.base ? p.base[row][output] : 0) + (p.bias ? p.bias[0][output] : 0);
      float sum = 0;
      for (int s = 0; s < slices && s < tiles; ++s) sum += sums[(s * own + o) * kRows + r];
      p.y[row][output] = start + p.sign * weight.scale(output) * sum;
    }
  });
}

// One row, by a packed weight. A block's rows of the weight are on their way to its shared memory from the
// moment on that there is room for it on a multiprocessor, however long it then waits for x: so memory is at
// work while the short kernels between two products are. False where a row is too long.
template <typename Weight>
bool multiply_one(const Weight& weight, const FewRows& p) {
  constexpr int kNumbers = Weight::kNumbers, kFours = kNumbers / 4;
  // Of a block: two fit a multiprocessor.
  const int64_t shared = std::min<int64_t>(112 << 10, most_shared_bytes());
  const int64_t chunks = ceil_div(p.inputs, kNumbers), row_bytes = chunks * int64_t{sizeof(Words)};
  const int64_t x_bytes = chunks * kNumbers * int64_t{sizeof(float)};
  const int64_t most = (shared - x_bytes) / row_bytes / kWarps * kWarps;
  if (most < kWarps) return false;
  const int64_t wanted = round_up(ceil_div(p.outputs, kBlocksWanted), kWarps);
  const int64_t own = std::min(most, wanted);  // rows of a block
  // x lies in four numbers of each chunk side by side: lanes then read from different banks.
  const auto stage = [=] __device__() {
    auto* staged = dynamic_shared<Words>() + chunks * kFours;
    const int64_t first = blockIdx.x * own, end = first + own < p.outputs ? first + own : p.outputs;
    const auto* from = reinterpret_cast<const Words*>(weight.bytes_at(first));
    for (int64_t i = threadIdx.x; i < (end - first) * chunks; i += kThreads) begin_copy(staged + i, from + i);
  };
  launch_early<kThreads>({ceil_div(p.outputs, own)}, x_bytes + own * row_bytes, stage, [=] __device__() {
    auto* x = dynamic_shared<Pack<float>>();
    const auto* staged = dynamic_shared<Words>() + chunks * kFours;
    const int lane = static_cast<int>(threadIdx.x % kWarpSize),
              warp = static_cast<int>(threadIdx.x / kWarpSize);
    for (int64_t i = threadIdx.x; i < chunks * kFours; i += kThreads) {
      Pack<float> four;
      float numbers[4];
      load_x(p, 0, 4 * i, numbers);
#pragma unroll
      for (int j = 0; j < 4; ++j) four.numbers[j] = numbers[j];
      x[i % kFours * chunks + i / kFours] = four;
    }
    finish_copies();
    __syncthreads();
    const int64_t first = blockIdx.x * own;
    for (int64_t row = warp; row < own && first + row < p.outputs; row += kWarps) {
      const Words* words = staged + row * chunks;
      float sums[kFours] = {};
#pragma unroll 4
      for (int64_t chunk = lane; chunk < chunks; chunk += kWarpSize) {
        const Words of = words[chunk];
#pragma unroll
        for (int f = 0; f < kFours; ++f) {
          const Pack<float> four = x[f * chunks + chunk];
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[f] = fmaf(weight.number(of, 4 * f + j), four.numbers[j], sums[f]);
        }
      }
      float sum = sums[0];
#pragma unroll
      for (int f = 1; f < kFours; ++f) sum += sums[f];
      sum = warp_sum(sum);
      const int64_t output = first + row;
      if (lane == 0)
        p.y[0][output] = (p.base ? p.base[0][output] : 0) + (p.bias ? p.bias[0][output] : 0) +
                         p.sign * weight.scale(output) * sum;
    }
  });
  return true;
}

template <typename Weight>
void multiply(const Weight& weight, const FewRows& p) {
  if constexpr (Weight::kIsPacked)
    if (p.rows == 1 && multiply_one(weight, p)) return;
  if (p.rows == 1) return multiply<1>(weight, p);
  if (p.rows == 2) return multiply<2>(weight, p);
  if (p.rows <= 4) return multiply<4>(weight, p);
  multiply<kMostRows>(weight, p);
}

bool is_aligned(const Rows& rows, int64_t columns) {
  return reinterpret_cast<uintptr_t>(rows.data) % sizeof(Words) == 0 && rows.stride % 4 == 0 &&
         columns % 4 == 0;
}

}  // namespace

// Beyond these a product by the matrix units takes less time: of packed bf16 numbers, which they read as they
// are, multiply_some_rows() or cuBLASLt; others come as, or are first unpacked to, f32.
bool has_few_rows(const Linear& op) {
  const int64_t most = !op.packed                                                         ? 16
                       : precision() == Precision::bf16 && op.packed.dtype == DType::bf16 ? 8
                                                                                          : 32;
  return op.x.rows <= most && op.x.cols > 0 && op.y.size() > 0;
}

void multiply_few_rows(const Linear& op) {
  const bool rounds = precision() == Precision::bf16;
  const Rows x = rows_of(op.x);
  const FewRows p{x,
                  rows_of(op.base),
                  rows_of(op.bias),
                  rows_of(op.y),
                  op.x.rows,
                  op.x.cols,
                  op.y.cols,
                  rounds,
                  reinterpret_cast<uintptr_t>(x.data) % sizeof(Words) == 0 && x.stride % 4 == 0,
                  op.negate ? -1.0f : 1.0f};
  if (op.packed) {
    const PackedRows rows = packed_rows_of(op.packed, p.outputs, p.inputs);
    return op.packed.dtype == DType::bf16 ? multiply(Bf16Rows{rows}, p) : multiply(I8Rows{rows}, p);
  }
  const Rows weight = rows_of(op.weight);
  const bool aligned = is_aligned(weight, p.inputs);
  const auto multiply_by = [&](auto rows) {
    rows.data = weight.data;
    rows.stride = weight.stride;
    rows.k = p.inputs;
    multiply(rows, p);
  };
  if (aligned && rounds) return multiply_by(F32Rows<true, true>{});
  if (aligned) return multiply_by(F32Rows<true, false>{});
  if (rounds) return multiply_by(F32Rows<false, true>{});
  multiply_by(F32Rows<false, false>{});
}

}  // namespace harmonic::cuda
