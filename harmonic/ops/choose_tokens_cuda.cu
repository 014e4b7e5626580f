#include "harmonic/ops/choose_tokens.h"
#include "harmonic/ops/cuda_kernel.h"

// A block for a row. It finds the likeliest token; each warp then sums the weights of a run of ids; and the
// warp in whose run the random number falls looks for it there.
namespace harmonic::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarpSize;
constexpr int64_t kMostTokens = 1 << 24;  // ids that are exact as f32

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

}  // namespace

void run(Context&, const ChooseTokens& op) {
  const Rows logits = rows_of(op.logits);
  const auto tokens = static_cast<int>(op.logits.cols);
  HARMONIC_ASSERT(tokens > 0 && op.logits.cols <= kMostTokens);
  auto* chosen = op.tokens.as<int32_t>();
  const TokenChoice* choices = op.choices;
  // Of a warp, whole turns of its lanes.
  const int share = (tokens + kThreads - 1) / kThreads * kWarpSize;
  launch<kThreads>({op.logits.rows}, kWarps * 8, [=] __device__() {
    const int64_t r = blockIdx.x;
    const float* row = logits[r];
    const TokenChoice choice = choices[r];
    auto* across = dynamic_shared<float>();
    float most = -INFINITY, strange = 0;
    int likeliest = 0;
#pragma unroll 8
    for (int v = static_cast<int>(threadIdx.x); v < tokens; v += kThreads) {
      const float logit = row[v];
      if (!(fabsf(logit) < INFINITY)) strange = 1;
      if (logit > most) {
        most = logit;
        likeliest = v;
      }
    }
    const float all = block_max(most, across);
    strange = block_max(strange, across);
    const float lowest = -block_max(most == all ? -static_cast<float>(likeliest) : -INFINITY, across);
    if (strange > 0 || choice.temperature <= 0) {
      if (threadIdx.x == 0) chosen[r] = strange > 0 ? -1 : static_cast<int32_t>(lowest);
      return;
    }
    const Weights weight{row, all, 1 / choice.temperature, choice.min_p};
    const int lane = static_cast<int>(threadIdx.x % kWarpSize),
              warp = static_cast<int>(threadIdx.x / kWarpSize);
    const int begin = warp * share, end = begin + share < tokens ? begin + share : tokens;
    double mass = 0;
#pragma unroll 4
    for (int v = begin + lane; v < end; v += kWarpSize) mass += weight(v);
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
    int kept = -1;  // the last one
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

}  // namespace harmonic::cuda
