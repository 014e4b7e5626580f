#include "harmonic/ops/rms_norm.h"

#include "harmonic/ops/cuda_kernel.h"

namespace harmonic::cuda {
namespace {

// f(columns) for the share of a row that one of `lanes` threads has.
template <int kLanes = kWarpSize, typename F>
__device__ void for_share(int64_t columns, bool packed, int lane, F f) {
#pragma unroll 2
  for (int64_t first = 4 * lane; first < columns; first += 4 * kLanes) {
    const int64_t left = columns - first;
    f(Columns{first, left < 4 ? static_cast<int>(left) : 4, packed});
  }
}

// By all lanes of a warp.
__device__ float inverse_root_mean_square(const float* x, int64_t columns, bool packed, float epsilon,
                                          int lane) {
  float squares = 0;
  for_share(columns, packed, lane, [&](const Columns& share) {
    const Four in = share.of(x);
#pragma unroll
    for (int i = 0; i < 4; ++i) squares += in[i] * in[i];
  });
  return 1 / sqrtf(warp_sum(squares) / static_cast<float>(columns) + epsilon);
}

}  // namespace

void run(Context&, const RmsNorm& op) {
  const Rows x = rows_of(op.x), weight = rows_of(op.weight), gain = rows_of(op.gain);
  const OperandRows y = operand_rows_of(op.y);
  const int64_t columns = op.x.cols;
  const auto epsilon = static_cast<float>(op.epsilon);
  const bool packed = all_in_packs({op.x, op.weight, op.gain, op.y});
  const auto put = [=] __device__(int64_t r, const Columns& share, float scale) {
    Four out = share.of(x[r]);
    const Four w = share.of(weight[0]);
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] *= scale * w[i];
    if (gain) {
      const Four more = share.of(gain[0]);
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] *= more[i];
    }
    share.put(y, r, out);
  };
  // Few wide rows have a block each: one warp would walk long.
  constexpr int64_t kFewRows = 64, kWide = 512;
  constexpr int kThreads = 512;
  if (op.x.rows <= kFewRows && columns >= kWide) {
    const auto bring = [=] __device__() {
      prefetch_row(weight[0], columns);
      if (gain) prefetch_row(gain[0], columns);
    };
    launch_early<kThreads>({op.x.rows}, kThreads / kWarpSize * 4, bring, [=] __device__() {
      const int64_t r = blockIdx.x;
      const auto thread = static_cast<int>(threadIdx.x);
      float squares = 0;
      for_share<kThreads>(columns, packed, thread, [&](const Columns& share) {
        const Four in = share.of(x[r]);
#pragma unroll
        for (int i = 0; i < 4; ++i) squares += in[i] * in[i];
      });
      const float mean = block_sum(squares, dynamic_shared<float>()) / static_cast<float>(columns);
      const float scale = 1 / sqrtf(mean + epsilon);
      for_share<kThreads>(columns, packed, thread, [&](const Columns& share) { put(r, share, scale); });
    });
    return;
  }
  for_each_row(op.x.rows, [=] __device__(int64_t r, int lane) {
    const float scale = inverse_root_mean_square(x[r], columns, packed, epsilon, lane);
    for_share(columns, packed, lane, [&](const Columns& share) { put(r, share, scale); });
  });
}

// With n = x * scale: dx = scale (dn - n mean(dn n)), where dn = dy weight gain.
void run(Context& context, const RmsNormBackward& op) {
  const Rows x = rows_of(op.x), weight = rows_of(op.weight), gain = rows_of(op.gain), dy = rows_of(op.dy);
  const Rows dweight = rows_of(op.dweight), dgain = rows_of(op.dgain);
  const GradientRows dx = rows_of(op.dx);
  const int64_t columns = op.x.cols;
  const auto epsilon = static_cast<float>(op.epsilon);
  const bool packed = all_in_packs({op.x, op.weight, op.gain, op.dy, op.dx.to});
  float* scales = scratch_floats(context, op.x.rows);
  for_each_row(op.x.rows, [=] __device__(int64_t r, int lane) {
    const float scale = inverse_root_mean_square(x[r], columns, packed, epsilon, lane);
    if (lane == 0) scales[r] = scale;
    const auto dn_of = [&](const Columns& share) {
      Four dn = share.of(dy[r]);
      const Four w = share.of(weight[0]);
#pragma unroll
      for (int i = 0; i < 4; ++i) dn[i] *= w[i];
      if (gain) {
        const Four more = share.of(gain[0]);
#pragma unroll
        for (int i = 0; i < 4; ++i) dn[i] *= more[i];
      }
      return dn;
    };
    float along = 0;
    for_share(columns, packed, lane, [&](const Columns& share) {
      const Four dn = dn_of(share), in = share.of(x[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) along += dn[i] * in[i];
    });
    along = warp_sum(along) * scale / static_cast<float>(columns);
    for_share(columns, packed, lane, [&](const Columns& share) {
      Four d = dn_of(share);
      const Four in = share.of(x[r]);
#pragma unroll
      for (int i = 0; i < 4; ++i) d[i] = scale * (d[i] - in[i] * scale * along);
      share.put(dx, r, d);
    });
  });
  sum_columns(
      context, op.x.rows, columns,
      [=] __device__(int64_t r, int64_t c) { return dy[r][c] * x[r][c] * scales[r]; },
      [=] __device__(int64_t c, float sum) {
        dweight[0][c] += sum * (gain ? gain[0][c] : 1);
        if (dgain) dgain[0][c] += sum * weight[0][c];
      });
}

}  // namespace harmonic::cuda
