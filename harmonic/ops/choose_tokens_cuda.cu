#include "harmonic/ops/choose_tokens.h"
#include "harmonic/ops/cuda_kernel.h"

// A block for a row, of which each warp has a run of ids. It finds the likeliest token and sums the weights
// of its run, in one pass where no weight has to stand comparison with the likeliest; and the warp in whose
// run the random number falls looks for it there.
namespace harmonic::cuda {
namespace {

constexpr int64_t kMostTokens = 1 << 24;  // ids that are exact as f32
constexpr int kTogether = 8;              // logits of a lane that are asked for at once
constexpr int64_t kFewRows = 132;         // no more than a card has multiprocessors

__device__ inline double sum_of_warp(double value) {
  for (int by = kWarpSize / 2; by > 0; by /= 2) value += __shfl_xor_sync(kAllLanes, value, by);
  return value;
}
// The lowest of the lanes' ids.
__device__ inline int lowest_of_warp(int id) { return static_cast<int>(-warp_max(-static_cast<float>(id))); }

// Of a token beside the likeliest one: 0 where it is not kept.
struct Weights {
  const float* logits;
  float most;
  double inverse, least;  // 1 / temperature, min_p
  __device__ double operator()(int64_t v) const {
    // Beyond, all that a row can have is nothing beside the likeliest.
    constexpr double kLowest = -80;
    const double power = (static_cast<double>(logits[v]) - static_cast<double>(most)) * inverse;
    const double weight = power < kLowest ? 0 : exp(power);
    return weight < least ? 0 : weight;
  }
};

// What a lane knows of its tokens. With `inverse` above 0 the sum of their weights beside its likeliest, too.
struct Seen {
  float most = -INFINITY;
  int likeliest = 0;
  bool strange = false;
  double sum = 0;

  // logits[j] of token first + j * kWarpSize; none is what is not there.
  __device__ void add(const float (&logits)[kTogether], int first, double inverse) {
    const double before = most;
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (!(logits[j] > most)) continue;
      most = logits[j];
      likeliest = first + j * kWarpSize;
    }
    if (inverse <= 0) return;
    const auto power_of = [&](double logit) { return exp((logit - static_cast<double>(most)) * inverse); };
    if (before < static_cast<double>(most)) sum *= power_of(before);
#pragma unroll
    for (int j = 0; j < kTogether; ++j) sum += power_of(logits[j]);
  }
};

template <int kThreads>
void choose(const ChooseTokens& op) {
  constexpr int kWarps = kThreads / kWarpSize;
  const Rows logits = rows_of(op.logits);
  const auto tokens = static_cast<int>(op.logits.cols);
  auto* chosen = op.tokens.as<int32_t>();
  const TokenChoice* choices = op.choices;
  // Of a warp, whole turns of its lanes.
  const int share = (tokens + kThreads - 1) / kThreads * kWarpSize;
  launch<kThreads, 1024 / kThreads>({op.logits.rows}, kWarps * 8, [=] __device__() {
    const int64_t r = blockIdx.x;
    const float* row = logits[r];
    const TokenChoice choice = choices[r];
    const int lane = static_cast<int>(threadIdx.x % kWarpSize);
    const int warp = static_cast<int>(threadIdx.x / kWarpSize);
    const int begin = warp * share, end = begin + share < tokens ? begin + share : tokens;
    const double inverse = choice.temperature > 0 ? 1 / choice.temperature : 0;
    const bool sums_at_once = choice.min_p <= 0;
    Seen seen;
    for (int first = begin + lane; first - lane < end; first += kTogether * kWarpSize) {
      float own[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int v = first + j * kWarpSize;
        own[j] = v < end ? row[v] : -INFINITY;
        if (v < end && !(fabsf(own[j]) < INFINITY)) seen.strange = true;
      }
      // A lane without any has nothing to compare.
      if (first < end) seen.add(own, first, sums_at_once ? inverse : 0);
    }
    auto* across = dynamic_shared<float>();
    const float all = block_max(seen.most, across);
    const float strange = block_max(seen.strange ? 1 : 0, across);
    const float likeliest = seen.most == all ? -static_cast<float>(seen.likeliest) : -INFINITY;
    const float lowest = -block_max(likeliest, across);
    if (strange > 0 || choice.temperature <= 0) {
      if (threadIdx.x == 0) chosen[r] = strange > 0 ? -1 : static_cast<int32_t>(lowest);
      return;
    }
    const Weights weight{row, all, inverse, choice.min_p};
    double mass = 0;
    if (sums_at_once) {
      const double below = static_cast<double>(seen.most) - static_cast<double>(all);
      if (seen.sum > 0) mass = seen.sum * exp(below * inverse);
    } else {
#pragma unroll 4
      for (int v = begin + lane; v < end; v += kWarpSize) mass += weight(v);
    }
    mass = sum_of_warp(mass);
    auto* masses = dynamic_shared<double>();
    __syncthreads();
    if (lane == 0) masses[warp] = mass;
    __syncthreads();
    double total = 0;
    for (int w = 0; w < kWarps; ++w) total += masses[w];
    double remaining = choice.uniform * total;
    // Where rounding leaves more than there is, the last of what is kept is chosen.
    int chooses = 0, last = 0;
    for (; chooses < kWarps && remaining >= masses[chooses]; ++chooses) {
      if (masses[chooses] > 0) last = chooses;
      remaining -= masses[chooses];
    }
    if (chooses == kWarps) {
      chooses = last;
      remaining = INFINITY;
    }
    if (warp != chooses) return;
    auto kept = static_cast<int>(lowest);  // or the last that has a weight
    for (int first = begin; first < end; first += kWarpSize) {
      const int v = first + lane;
      const double own = v < end ? weight(v) : 0;
      double sum = own;  // with the lanes below
      for (int by = 1; by < kWarpSize; by *= 2) {
        const double below = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(by));
        if (lane >= by) sum += below;
      }
      const int found = lowest_of_warp(own > 0 && remaining < sum ? lane : kWarpSize);
      if (found < kWarpSize) {
        kept = first + found;
        break;
      }
      const auto highest = static_cast<int>(warp_max(own > 0 ? static_cast<float>(v) : -1.0f));
      if (highest >= 0) kept = highest;
      remaining -= __shfl_sync(kAllLanes, sum, kWarpSize - 1);
    }
    if (lane == 0) chosen[r] = kept;
  });
}

}  // namespace

void run(Context&, const ChooseTokens& op) {
  HARMONIC_ASSERT(op.logits.cols > 0 && op.logits.cols <= kMostTokens);
  op.logits.rows <= kFewRows ? choose<1024>(op) : choose<512>(op);
}

}  // namespace harmonic::cuda
