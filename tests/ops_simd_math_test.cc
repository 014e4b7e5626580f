// The vector mathematics: the same bits on every target, accurate, ends of arrays handled and nothing past
// them touched.
#include "harmonic/ops/simd_targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/ops_simd_math_test.cc"
#include <hwy/foreach_target.h>
//
#include "harmonic/ops/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

void Apply(int function, int64_t count, const float* x, float* y) {
  const hn::CappedTag<float, 16> d;
  const auto apply = [&](auto f) HWY_ATTR { ForEach(d, count, Out(y), In(x), f); };
  switch (function) {
    case 0:
      return apply([d](auto v, auto& r) HWY_ATTR { r = Exp(d, v); });
    case 1:
      return apply([d](auto v, auto& r) HWY_ATTR { r = Log(d, v); });
    case 2:
      return apply([d](auto v, auto& r) HWY_ATTR { r = Log1pUnit(d, v); });
    case 3:
      return apply([d](auto v, auto& r) HWY_ATTR { r = Sigmoid(d, v); });
    case 4:
      return apply([d](auto v, auto& r) HWY_ATTR { r = Silu(d, v); });
    case 5:
      return apply([d](auto v, auto& r) HWY_ATTR { r = Softplus(d, v); });
    case 6:
      return apply([d](auto v, auto& r) HWY_ATTR {
        hn::Vec<decltype(d)> rest;
        Sigmoids(d, v, r, rest);
      });
    case 7:
      return apply([d](auto v, auto& r) HWY_ATTR {
        hn::Vec<decltype(d)> sigmoid;
        Sigmoids(d, v, sigmoid, r);
      });
    case 8:
      return apply([d](auto v, auto& r) HWY_ATTR { r = ExpOfNegative(d, hn::Neg(hn::Abs(v))); });
  }
}

// Five inputs, three outputs (the first in place of input a) and two sums.
void Combine(int64_t count, float* a, const float* b, const float* c, const float* e, const float* g,
             float* y, float* z, float* sums) {
  const hn::CappedTag<float, 16> d;
  const auto result = ForEachWithSums<2>(
      d, count, Out(a, y, z), In(a, b, c, e, g),
      [d](auto av, auto bv, auto cv, auto ev, auto gv, auto& ao, auto& yo, auto& zo, auto& s, auto& t)
          HWY_ATTR {
            ao = hn::MulAdd(av, bv, cv);
            yo = hn::Sub(ev, gv);
            zo = hn::Add(av, gv);
            s = hn::Add(av, hn::Set(d, 1.0f));  // not zero where the padding is
            t = hn::Mul(bv, cv);
          });
  sums[0] = result[0];
  sums[1] = result[1];
}

float Total(int64_t count, const float* x) {
  const hn::CappedTag<float, 16> d;
  return SumOf(d, count, In(x), [](auto v, auto& term) HWY_ATTR { term = v; });
}

float Largest(int64_t count, const float* x) { return MaxOf(hn::CappedTag<float, 16>(), count, x); }

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/float_mode.h"
#include "harmonic/base/random.h"

namespace harmonic {
namespace {

HWY_EXPORT(Apply);
HWY_EXPORT(Combine);
HWY_EXPORT(Total);
HWY_EXPORT(Largest);

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Function {
  const char* name;
  double (*exact)(double);
  float low, high;   // arguments tested for accuracy
  double tolerance;  // relative
};
const Function kFunctions[] = {
    {"exp", [](double x) { return std::exp(x); }, -87.3f, 88.7f, 2e-7},
    {"log", [](double x) { return std::log(x); }, 1e-37f, 4.0f, 3e-7},
    {"log1p", [](double x) { return std::log1p(x); }, 0.0f, 1.0f, 3e-7},
    {"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }, -87.3f, 40.0f, 3e-7},
    {"silu", [](double x) { return x / (1 + std::exp(-x)); }, -87.0f, 40.0f, 4e-7},
    {"softplus", [](double x) { return std::log1p(std::exp(-std::abs(x))) + std::max(x, 0.0); }, -87.3f,
     40.0f, 5e-7},
    {"sigmoid of Sigmoids", [](double x) { return 1 / (1 + std::exp(-x)); }, -87.0f, 40.0f, 4e-7},
    {"1 - sigmoid", [](double x) { return 1 / (1 + std::exp(x)); }, -40.0f, 87.0f, 4e-7},
    {"exp of negative", [](double x) { return std::exp(x); }, -87.3f, 0.0f, 2e-7},
};
constexpr int kFunctionCount = std::size(kFunctions);

std::vector<float> evaluate(int function, const std::vector<float>& x) {
  std::vector<float> y(x.size(), kNan);
  HWY_DYNAMIC_DISPATCH(Apply)(function, static_cast<int64_t>(x.size()), x.data(), y.data());
  return y;
}

std::vector<uint32_t> bits_of(const std::vector<float>& x) {
  std::vector<uint32_t> bits;
  for (const float v : x) bits.push_back(std::bit_cast<uint32_t>(v));
  return bits;
}

std::vector<float> random_values(int64_t count, float low, float high, uint64_t seed) {
  const Random random(seed, stream_of("simd_math"));
  std::vector<float> x;
  for (int64_t i = 0; i < count; ++i)
    x.push_back(static_cast<float>(low + (high - low) * random.uniform(static_cast<uint64_t>(i))));
  return x;
}

const std::vector<float> kSpecial = {
    0.0f,      -0.0f,      1.0f,    -1.0f,       1e-45f,  -1e-45f,  1.2e-38f,    3.4e38f, -3.4e38f,
    kInfinity, -kInfinity, kNan,    88.0f,       88.8f,   -87.3f,   -87.4f,      -88.0f,  -103.0f,
    -110.0f,   200.0f,     -200.0f, 0.70710677f, 0.7071f, 1.41421f, 0.41421357f, 0.4142f, 0.5f,
    2.0f,      16777216.f, 1e-8f,   -1e-8f,      100.0f,  -100.0f};

TEST(SimdMath, EveryTargetGivesTheSameBits) {
  const std::vector<std::string_view> targets = simd_target_names();
  if (targets.size() < 2) GTEST_SKIP() << "this processor has one target only";
  for (int function = 0; function < kFunctionCount; ++function) {
    std::vector<float> x = random_values(20000, -105.0f, 100.0f, 1);
    const std::vector<float> fine = random_values(20000, -2.0f, 2.0f, 2);
    x.insert(x.end(), fine.begin(), fine.end());
    x.insert(x.end(), kSpecial.begin(), kSpecial.end());
    std::vector<std::vector<uint32_t>> results;
    for (const std::string_view target : targets) {
      const UseSimdTarget use(target);
      ASSERT_EQ(simd_target_name(), target);
      results.push_back(bits_of(evaluate(function, x)));
    }
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_EQ(results[0][i], results[1][i]) << kFunctions[function].name << "(" << x[i] << ")";
  }
}

TEST(SimdMath, FlushToZeroDoesNotChangeTheBits) {
  for (int function = 0; function < kFunctionCount; ++function) {
    std::vector<float> x = random_values(5000, -105.0f, 100.0f, 3);
    const auto normal = bits_of(evaluate(function, x));
    const FlushToZero mode;
    EXPECT_EQ(bits_of(evaluate(function, x)), normal) << kFunctions[function].name;
  }
}

TEST(SimdMath, ResultsAreNearThoseInDoublePrecision) {
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    for (int function = 0; function < kFunctionCount; ++function) {
      const Function& f = kFunctions[function];
      std::vector<float> x = random_values(200000, f.low, f.high, 4);
      for (const float v : random_values(200000, std::max(f.low, -1.0f), std::min(f.high, 2.0f), 5))
        x.push_back(v);
      double worst = 0, worst_x = 0;
      const std::vector<float> y = evaluate(function, x);
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = f.exact(x[i]);
        if (std::abs(exact) < 1.2e-38) continue;
        const double error = std::abs(y[i] - exact) / std::abs(exact);
        if (!(error <= worst)) worst = error, worst_x = x[i];
      }
      EXPECT_LE(worst, f.tolerance) << f.name << "(" << worst_x << ") on " << target;
    }
  }
}

TEST(SimdMath, ExpOfNegativeHasTheBitsOfExp) {
  std::vector<float> x = random_values(200'000, -110.0f, 0.0f, 3);
  for (const float near : random_values(50'000, -1e-3f, 0.0f, 4)) x.push_back(near);
  for (const float special :
       {-0.0f, 0.0f, -1e-45f, -87.3f, -87.33654f, -87.33655f, -104.0f, -3.4e38f, -kInfinity})
    x.push_back(special);
  EXPECT_EQ(bits_of(evaluate(8, x)), bits_of(evaluate(0, x)));
}

TEST(SimdMath, ExtremesSaturateAndNanStaysNan) {
  EXPECT_EQ(evaluate(0, {-200.0f, -kInfinity, 0.0f, -0.0f, 100.0f, kInfinity}),
            (std::vector<float>{0.0f, 0.0f, 1.0f, 1.0f, kInfinity, kInfinity}));
  EXPECT_EQ(evaluate(1, {0.0f, 1.0f, kInfinity}), (std::vector<float>{-kInfinity, 0.0f, kInfinity}));
  EXPECT_EQ(evaluate(2, {0.0f}), std::vector<float>{0.0f});
  EXPECT_EQ(evaluate(3, {-100.0f, 100.0f, 0.0f, -kInfinity, kInfinity}),
            (std::vector<float>{0.0f, 1.0f, 0.5f, 0.0f, 1.0f}));
  EXPECT_EQ(evaluate(4, {200.0f, 0.0f, -0.0f}), (std::vector<float>{200.0f, 0.0f, -0.0f}));
  EXPECT_NEAR(evaluate(4, {-200.0f})[0], 0.0f, 1e-35f);
  EXPECT_EQ(evaluate(6, {200.0f, 0.0f, kInfinity}), (std::vector<float>{1.0f, 0.5f, 1.0f}));
  EXPECT_EQ(evaluate(7, {-200.0f, 0.0f, -kInfinity}), (std::vector<float>{1.0f, 0.5f, 1.0f}));
  EXPECT_NEAR(evaluate(6, {-200.0f})[0], 0.0f, 2e-38f);
  EXPECT_NEAR(evaluate(7, {200.0f})[0], 0.0f, 2e-38f);
  EXPECT_EQ(evaluate(5, {-200.0f, 200.0f, kInfinity, -kInfinity}),
            (std::vector<float>{0.0f, 200.0f, kInfinity, 0.0f}));
  EXPECT_TRUE(std::isnan(evaluate(1, {-1.0f})[0]));
  for (int function = 0; function < kFunctionCount; ++function)
    EXPECT_TRUE(std::isnan(evaluate(function, {kNan})[0])) << kFunctions[function].name;
}

// Every size through one vector, several and a part, on every target: bits against the longest array's, and
// guards around what may be written.
TEST(SimdLoops, AnElementsBitsDoNotDependOnTheSizeAndNothingAroundIsWritten) {
  const int64_t most = 70;
  std::vector<float> inputs[5];
  for (uint64_t k = 0; k < 5; ++k) inputs[k] = random_values(most, -2.0f, 2.0f, 10 + k);
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    for (int64_t count = 0; count <= most; ++count) {
      const auto size = static_cast<size_t>(count);
      // Inputs end where their memory ends, so that the address sanitizer sees a read past them.
      std::vector<float> in[5];
      for (int k = 1; k < 5; ++k) in[k].assign(inputs[k].begin(), inputs[k].begin() + count);
      std::vector<float> a(size + 2, 77.0f), y(size + 2, 77.0f), z(size + 2, 77.0f);
      std::copy_n(inputs[0].begin(), count, a.begin() + 1);
      float sums[2];
      HWY_DYNAMIC_DISPATCH(Combine)
      (count, a.data() + 1, in[1].data(), in[2].data(), in[3].data(), in[4].data(), y.data() + 1,
       z.data() + 1, sums);
      float partials[2][16] = {};
      for (size_t i = 0; i < size; ++i) {
        EXPECT_EQ(a[i + 1], std::fma(inputs[0][i], inputs[1][i], inputs[2][i]));
        EXPECT_EQ(y[i + 1], inputs[3][i] - inputs[4][i]);
        EXPECT_EQ(z[i + 1], inputs[0][i] + inputs[4][i]);
        partials[0][i % 16] += inputs[0][i] + 1.0f;
        partials[1][i % 16] += inputs[1][i] * inputs[2][i];
      }
      for (const auto& array : {a, y, z}) {
        EXPECT_EQ(array.front(), 77.0f);
        EXPECT_EQ(array.back(), 77.0f);
      }
      for (int s = 0; s < 2; ++s) {
        for (int half = 8; half > 0; half /= 2)
          for (int lane = 0; lane < half; ++lane) partials[s][lane] += partials[s][lane + half];
        EXPECT_EQ(std::bit_cast<uint32_t>(sums[s]), std::bit_cast<uint32_t>(partials[s][0]))
            << target << " " << count;
      }
    }
  }
}

TEST(SimdLoops, SumAndMaximumHoldForAnySize) {
  const std::vector<float> x = random_values(200, -3.0f, -1.0f, 20);
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    EXPECT_EQ(HWY_DYNAMIC_DISPATCH(Total)(0, x.data()), 0.0f);
    EXPECT_EQ(HWY_DYNAMIC_DISPATCH(Largest)(0, x.data()), -kInfinity);
    double sum = 0;
    for (int64_t count = 1; count <= 200; ++count) {
      const std::vector<float> part(x.begin(), x.begin() + count);
      sum += part.back();
      EXPECT_NEAR(HWY_DYNAMIC_DISPATCH(Total)(count, part.data()), sum, 1e-6 * std::abs(sum));
      EXPECT_EQ(HWY_DYNAMIC_DISPATCH(Largest)(count, part.data()),
                *std::max_element(part.begin(), part.end()));
    }
  }
}

TEST(SimdTargets, AnUnknownTargetIsAnErrorAndTheBestOneComesBack) {
  require_simd();
  const std::string_view best = simd_target_name();
  EXPECT_THROW(UseSimdTarget("MMX"), Error);
  { const UseSimdTarget use(simd_target_names().back()); }
  EXPECT_EQ(simd_target_name(), best);
}

TEST(SimdTargets, AProcessorWithoutThemIsRefusedWithTheReason) {
  hwy::SetSupportedTargetsForTest(HWY_SSE4);
  EXPECT_EQ(simd_target_name(), "none");
  try {
    require_simd();
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("fused multiply-add"), std::string_view::npos);
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace harmonic
#endif  // HWY_ONCE
