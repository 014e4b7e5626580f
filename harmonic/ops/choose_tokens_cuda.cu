#include "harmonic/ops/choose_tokens.h"
#include "harmonic/ops/cuda_kernel.h"

// In three launches, whatever the number of rows. The first brings the choices near: they lie in the
// program's memory, where thousands of blocks had better not read them. A row has parts of 512 ids. In the
// second launch a warp reads a part, once, and tells its largest logit and the sum of its weights beside that
// one. In the third a block for each row finds the part in which the random number falls, and looks for the
// token there, by the very weights that were summed. A single weight is f32, right to some 1e-7; what is
// added to what, and in which order, the number of ids alone decides.
namespace harmonic::cuda {
namespace {

constexpr int kPacks = 4;                     // of a lane, which are asked for at once
constexpr int kIds = kPacks * 4 * kWarpSize;  // of a part
constexpr int kWarps = 8;                     // of a block
constexpr float kLowest = -3.402823466e38f;   // that is finite
constexpr float kSmallest = 1.17549435e-38f;  // that is normal
constexpr int64_t kMostTokens = 1 << 30;
constexpr float kNone = 1 << 24;  // beyond the number of any part or pack, and exact

struct alignas(16) Part {
  float most;  // infinity where a logit is not finite
  double sum;
};

__device__ inline double sum_of_warp(double value) {
  for (int by = kWarpSize / 2; by > 0; by /= 2) value += __shfl_xor_sync(kAllLanes, value, by);
  return value;
}

// What a card needs of a choice, by the order in which it is copied.
constexpr int kFields = 3;
__device__ inline double field_of(const TokenChoice& choice, int64_t index) {
  return index == 0 ? choice.temperature : index == 1 ? choice.min_p : choice.uniform;
}

// What makes a power of two of half the difference of two logits: half, so that it is finite.
__device__ inline float scale_of(double temperature) {
  if (temperature <= 0) return 0;
  return 2 * kLog2OfE / fmaxf(static_cast<float>(temperature), kSmallest);
}
__device__ inline float weight_beside(float most, float logit, float scale) {
  return fast_exp2(fmaf(0.5f, logit, -0.5f * most) * scale);
}

// The lowest logit that is kept in a row whose largest is `most`: where the choice is greedy, that one.
__device__ inline float least_kept(const TokenChoice& choice, float most) {
  if (choice.temperature <= 0) return most;
  if (choice.min_p <= 0) return kLowest;
  const double border = static_cast<double>(most) + log(choice.min_p) * choice.temperature;
  const double least = fmax(border, static_cast<double>(kLowest));
  auto rounded = static_cast<float>(fmin(least, static_cast<double>(most)));
  if (static_cast<double>(rounded) < least) rounded = nextafterf(rounded, INFINITY);
  return fminf(rounded, most);
}

// A lane's share of a part: its pack j is number 32 j + lane of the part's packs.
struct Share {
  float logits[kPacks][4];  // less than all that are finite where the row has ended
  bool strange = false;     // whether one is not finite

  // No read waits for another: what is read is looked at when all have been asked for.
  __device__ Share(const float* row, int begin, int end, bool packed, int lane) {
    const int first = begin + 4 * lane;
    const bool whole = begin + kIds <= end;
    if (packed && whole) {
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        const Pack<float> pack = pack_at(row + first + 4 * kWarpSize * j);
#pragma unroll
        for (int i = 0; i < 4; ++i) logits[j][i] = pack.numbers[i];
      }
    } else {
#pragma unroll
      for (int j = 0; j < kPacks; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int v = first + 4 * kWarpSize * j + i;
          logits[j][i] = v < end ? row[v] : 0;
        }
    }
#pragma unroll
    for (int j = 0; j < kPacks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) strange |= !(fabsf(logits[j][i]) < INFINITY);
    if (whole) return;
#pragma unroll
    for (int j = 0; j < kPacks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (first + 4 * kWarpSize * j + i >= end) logits[j][i] = -INFINITY;
  }
  __device__ float most() const {
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < kPacks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) most = fmaxf(most, logits[j][i]);
    return strange ? INFINITY : most;
  }
  // Of what is kept, in the place of the logits; 0 of what is not.
  __device__ void make_weights(float most, float least, float scale) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float logit = logits[j][i];
        logits[j][i] = logit >= least ? weight_beside(most, logit, scale) : 0;
      }
  }
  __device__ double sum_of_pack(int j) const {
    return static_cast<double>((logits[j][0] + logits[j][1]) + (logits[j][2] + logits[j][3]));
  }
  __device__ double sum() const {
    double sum = 0;
#pragma unroll
    for (int j = 0; j < kPacks; ++j) sum += sum_of_pack(j);
    return sum;
  }
};

// Where a number falls among masses that lie one after the other, and how far beyond the place's begin.
struct Place {
  int index = 0;
  double remaining = INFINITY;
};
// mass(turn) is a lane's mass of number 32 * turn + lane. Where rounding leaves more than there is, the place
// is the last that has a mass.
template <typename Mass>
__device__ Place find(int turns, double remaining, int lane, Mass mass) {
  constexpr int kTurns = kPacks;  // at once
  Place last;
  for (int first = 0; first < turns; first += kTurns) {
    double own[kTurns], sums[kTurns];  // the sums: with the lanes below
#pragma unroll
    for (int j = 0; j < kTurns; ++j) sums[j] = own[j] = mass(first + j);
#pragma unroll
    for (int by = 1; by < kWarpSize; by *= 2)
#pragma unroll
      for (int j = 0; j < kTurns; ++j) {
        const double below = __shfl_up_sync(kAllLanes, sums[j], static_cast<unsigned>(by));
        if (lane >= by) sums[j] += below;
      }
    float here = kNone, highest = -1;
    double before = 0, turns_before = 0;
#pragma unroll
    for (int j = 0; j < kTurns; ++j) {
      const double with = turns_before + sums[j];
      const auto number = static_cast<float>((first + j) * kWarpSize + lane);
      if (own[j] > 0) highest = number;
      if (own[j] > 0 && here == kNone && remaining < with) {
        here = number;
        before = with - own[j];
      }
      turns_before += __shfl_sync(kAllLanes, sums[j], kWarpSize - 1);
    }
    const float lowest = -warp_max(-here);
    if (lowest < kNone) {
      const auto index = static_cast<int>(lowest);
      return {index, remaining - __shfl_sync(kAllLanes, before, index % kWarpSize)};
    }
    highest = warp_max(highest);
    if (highest >= 0) last.index = static_cast<int>(highest);
    remaining -= turns_before;
  }
  return last;
}

}  // namespace

void run(Context& context, const ChooseTokens& op) {
  HARMONIC_ASSERT(op.logits.cols > 0 && op.logits.cols <= kMostTokens);
  const auto tokens = static_cast<int>(op.logits.cols);
  const int64_t rows = op.logits.rows;
  const Rows logits = rows_of(op.logits);
  // Every row begins where packs do; it may end anywhere.
  const bool packed = lies_in_packs(op.logits.columns(0, tokens / 4 * 4));
  const int count = (tokens + kIds - 1) / kIds, blocks = (count + kWarps - 1) / kWarps;
  const auto scratch = [&](int64_t bytes) { return context.scratch.allocate(bytes, MemoryUse::tensors); };
  auto* parts = static_cast<Part*>(scratch(rows * count * static_cast<int64_t>(sizeof(Part))));
  const TokenChoice* choices = op.choices;
  auto* near = static_cast<double*>(scratch(rows * kFields * static_cast<int64_t>(sizeof(double))));
  for_each_element(rows, kFields, [=] __device__(int64_t r, int64_t field) {
    near[kFields * r + field] = field_of(choices[r], field);
  });

  launch<kWarps * kWarpSize, 6>({rows * blocks}, 0, [=] __device__() {
    const int r = static_cast<int>(blockIdx.x) / blocks, block = static_cast<int>(blockIdx.x) % blocks;
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    const int p = block * kWarps + static_cast<int>(threadIdx.x / kWarpSize);
    if (p >= count) return;
    const double temperature = near[kFields * r];
    Share own(logits[r], p * kIds, tokens, packed, lane);
    const float most = warp_max(own.most());
    own.make_weights(most, kLowest, scale_of(temperature));
    const double sum = sum_of_warp(own.sum());
    if (lane == 0) parts[static_cast<int64_t>(r) * count + p] = {most, sum};
  });

  auto* chosen = op.tokens.as<int32_t>();
  launch<kWarps * kWarpSize>({rows}, 0, [=] __device__() {
    const int64_t r = blockIdx.x;
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    const int warp = static_cast<int>(threadIdx.x / kWarpSize);
    TokenChoice choice;
    choice.temperature = near[kFields * r];
    choice.min_p = near[kFields * r + 1];
    choice.uniform = near[kFields * r + 2];
    Part* part = parts + r * count;
    float most = -INFINITY;
#pragma unroll 4
    for (int p = lane; p < count; p += kWarpSize) most = fmaxf(most, part[p].most);
    most = warp_max(most);
    if (most == INFINITY) {
      if (threadIdx.x == 0) chosen[r] = -1;
      return;
    }
    const float scale = scale_of(choice.temperature), least = least_kept(choice, most);
    const auto weights_of = [&](int p) {
      Share own(logits[r], p * kIds, tokens, packed, lane);
      own.make_weights(part[p].most, least, scale);
      return own;
    };
    // Where not all of a part is kept, its sum is another one. Of a greedy choice it is asked alone whether
    // there is any.
    if (choice.temperature > 0 && choice.min_p > 0) {
      for (int p = warp; p < count; p += kWarps) {
        if (part[p].most < least) continue;
        const double sum = sum_of_warp(weights_of(p).sum());
        if (lane == 0) part[p].sum = sum;
      }
      __syncthreads();
    }
    if (warp > 0) return;

    const auto beside_all = [&](const Part& known) {
      return static_cast<double>(weight_beside(most, known.most, scale));
    };
    const auto mass = [&](int p) {
      const Part known = part[p < count ? p : count - 1];
      const double own = known.sum * beside_all(known);
      return p < count && known.most >= least ? own : 0;
    };
    double total = 0;
#pragma unroll 4
    for (int p = lane; p < count; p += kWarpSize) total += mass(p);
    total = sum_of_warp(total);
    const double looked_up = choice.temperature > 0 ? choice.uniform * total : 0;
    const int turns = (count + kWarpSize - 1) / kWarpSize;
    const Place in_row =
        find(turns, looked_up, lane, [&](int turn) { return mass(turn * kWarpSize + lane); });
    const Share own = weights_of(in_row.index);
    const Place in_part = find(kPacks, in_row.remaining / beside_all(part[in_row.index]), lane,
                               [&](int turn) { return own.sum_of_pack(turn); });
    if (lane != in_part.index % kWarpSize) return;
    // As many registers as a lane has cannot be counted through: each is looked at.
    double remaining = in_part.remaining;
    int token = 0;
    bool found = false;
#pragma unroll
    for (int j = 0; j < kPacks; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = own.logits[j][i];
        if (j != in_part.index / kWarpSize || weight <= 0 || found) continue;
        token = in_part.index * 4 + i;
        found = remaining < static_cast<double>(weight);
        remaining -= static_cast<double>(weight);
      }
    chosen[r] = in_row.index * kIds + token;
  });
}

}  // namespace harmonic::cuda
