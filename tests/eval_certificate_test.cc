// The certificate passes honest models and catches every kind of look ahead.
#include "harmonic/eval/certificate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "small_models.h"

namespace harmonic {
namespace {

using Kind = std::string;

// Adds to each row a weighted sum of rows of its segment, later ones among them:
//   "own block"  the mean of the row's own block, all of it
//   "error"      that mean less the mean of the block before
//   "norm"       the mean over the whole segment, as a norm over time would bring in
class LeakingMixer : public Mixer {
 public:
  LeakingMixer(std::unique_ptr<Mixer> honest, Kind kind, int64_t stride, double strength = 1)
      : honest_(std::move(honest)), kind_(std::move(kind)), stride_(stride), strength_(strength) {}

  Variable forward(Step& step, const Variable& x) const override {
    Tape& tape = step.tape();
    const Variable leak = tape.variable(x.value.rows, x.value.cols);
    const Segments segments = step.segments();
    // weight(t, r): how much of row r comes into row t; rows count from the segment's first.
    const auto weight = [kind = kind_ == "norm"    ? 2
                                : kind_ == "error" ? 1
                                                   : 0,
                         stride = stride_, strength = strength_](int64_t t, int64_t r, int64_t length) {
      const auto in_block = [&](int64_t block) {
        const int64_t first = block * stride, last = std::min(length, first + stride);
        return r >= first && r < last ? strength / static_cast<double>(last - first) : 0.0;
      };
      if (kind == 2) return strength / static_cast<double>(length);
      return in_block(t / stride) - (kind == 1 && t >= stride ? in_block(t / stride - 1) : 0.0);
    };
    const auto apply = [segments, weight](const Tensor& from, const Tensor& to, bool transposed, bool add) {
      for (int64_t b = 0; b < segments.count; ++b) {
        for (int64_t t = 0; t < segments.length(b); ++t) {
          for (int64_t c = 0; c < from.cols; ++c) {
            double sum = add ? to.row<float>(segments.begin(b) + t)[c] : 0;
            for (int64_t r = 0; r < segments.length(b); ++r) {
              const double w =
                  transposed ? weight(r, t, segments.length(b)) : weight(t, r, segments.length(b));
              if (w != 0) sum += w * from.row<float>(segments.begin(b) + r)[c];
            }
            to.row<float>(segments.begin(b) + t)[c] = static_cast<float>(sum);
          }
        }
      }
    };
    apply(x.value, leak.value, false, false);
    tape.record(leak, [=](Tape& t) {
      const Gradient to = t.contribute(x);
      apply(t.gradient(leak), to.to, true, to.add);
    });
    return add(tape, honest_->forward(step, x), leak);
  }

 private:
  std::unique_ptr<Mixer> honest_;
  Kind kind_;
  int64_t stride_;
  double strength_;
};

template <int stride>
std::unique_ptr<Mixer> own_block(const std::string& kind, const ModelConfig& config, const Builder& builder) {
  return std::make_unique<LeakingMixer>(make_mixer(kind, config, builder), "own block", stride);
}
std::unique_ptr<Mixer> strong_own_block(const std::string& kind, const ModelConfig& config,
                                        const Builder& builder) {
  return std::make_unique<LeakingMixer>(make_mixer(kind, config, builder), "own block", 4, 8);
}
std::unique_ptr<Mixer> own_error(const std::string& kind, const ModelConfig& config, const Builder& builder) {
  return std::make_unique<LeakingMixer>(make_mixer(kind, config, builder), "error", 4);
}
std::unique_ptr<Mixer> norm_over_time(const std::string& kind, const ModelConfig& config,
                                      const Builder& builder) {
  return std::make_unique<LeakingMixer>(make_mixer(kind, config, builder), "norm", 1);
}

// The last but one row of each block reads the block's last.
class BlockEndAheadMixer : public Mixer {
 public:
  BlockEndAheadMixer(std::unique_ptr<Mixer> honest, int64_t stride)
      : honest_(std::move(honest)), stride_(stride) {}

  Variable forward(Step& step, const Variable& x) const override {
    const Variable leak = step.tape().variable(x.value.rows, x.value.cols);
    for (int64_t r = 0; r < x.value.rows; ++r) std::fill_n(leak.value.row<float>(r), x.value.cols, 0.0f);
    const Segments segments = step.segments();
    for (int64_t b = 0; b < segments.count; ++b)
      for (int64_t t = stride_ - 1; t < segments.length(b); t += stride_)
        std::copy_n(x.value.row<float>(segments.begin(b) + t), x.value.cols,
                    leak.value.row<float>(segments.begin(b) + t - 1));
    return add(step.tape(), honest_->forward(step, x), leak);
  }

 private:
  std::unique_ptr<Mixer> honest_;
  int64_t stride_;
};

std::unique_ptr<Mixer> block_end_ahead(const std::string& kind, const ModelConfig& config,
                                       const Builder& builder) {
  return std::make_unique<BlockEndAheadMixer>(make_mixer(kind, config, builder), 8192);
}

// Every document reads the first token of the one before it in the batch.
class NeighbourMixer : public Mixer {
 public:
  explicit NeighbourMixer(std::unique_ptr<Mixer> honest) : honest_(std::move(honest)) {}

  Variable forward(Step& step, const Variable& x) const override {
    const Variable leak = step.tape().variable(x.value.rows, x.value.cols);
    const Segments segments = step.segments();
    for (int64_t b = 0; b < segments.count; ++b)
      for (int64_t r = segments.begin(b); r < segments.begin(b + 1); ++r)
        for (int64_t c = 0; c < x.value.cols; ++c)
          leak.value.row<float>(r)[c] = b > 0 ? x.value.row<float>(segments.begin(b - 1))[c] : 0.0f;
    return add(step.tape(), honest_->forward(step, x), leak);
  }

 private:
  std::unique_ptr<Mixer> honest_;
};

std::unique_ptr<Mixer> neighbour(const std::string& kind, const ModelConfig& config, const Builder& builder) {
  return std::make_unique<NeighbourMixer>(make_mixer(kind, config, builder));
}

// The row of `held` that token t of segment b reads when a block is read one token before it has closed, as
// far as the pass holds it.
int64_t early_row(const CausalUpsample& op, int64_t b, int64_t t) {
  const int64_t block = std::min((op.phases[b] + t + 2) / op.stride, op.blocks.length(b));
  return op.blocks.begin(b) + b + block;
}
void upsample_early(Context&, const CausalUpsample& op) {
  for (int64_t b = 0; b < op.segments.count; ++b)
    for (int64_t t = 0; t < op.segments.length(b); ++t)
      for (int64_t c = 0; c < op.y.cols; ++c) {
        const int64_t r = op.segments.begin(b) + t;
        op.y.row<float>(r)[c] = op.base.row<float>(r)[c] + op.held.row<float>(early_row(op, b, t))[c];
      }
}
void upsample_early_backward(Context&, const CausalUpsampleBackward& op) {
  const Tensor& to = op.dheld.to;
  if (!op.dheld.add)
    for (int64_t r = 0; r < to.rows; ++r) std::fill_n(to.row<float>(r), to.cols, 0.0f);
  const CausalUpsample forward{{}, op.segments, op.blocks, op.phases, op.stride, {}, {}};
  for (int64_t b = 0; b < op.segments.count; ++b)
    for (int64_t t = 0; t < op.segments.length(b); ++t)
      for (int64_t c = 0; c < to.cols; ++c)
        to.row<float>(early_row(forward, b, t))[c] += op.dy.row<float>(op.segments.begin(b) + t)[c];
}

ModelConfig tiny() {
  ModelConfig config = small_configs()[0].config;
  config.vocab_size = 64;
  return config;
}

ModelConfig with_slowest_stride(int64_t stride) {
  ModelConfig config = tiny();
  config.harmonic.strides = {1, stride};
  config.harmonic.taus = {4, 8};
  config.harmonic.cells = {1, 1};
  return config;
}

std::set<std::string> failed_tests(const Certificate& certificate) {
  std::set<std::string> names;
  for (const CertificateTest& test : certificate.tests)
    if (!test.passed) names.insert(test.name);
  return names;
}

class HonestModelOf : public testing::TestWithParam<NamedConfig> {};

TEST_P(HonestModelOf, PassesTheCertificate) {
  Model model(GetParam().config, cpu_backend(), true);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  const Certificate certificate = certify(model, pool, {.random_tokens = 4096});
  for (const CertificateTest& test : certificate.tests)
    EXPECT_TRUE(test.passed) << test.name << ": " << test.detail;
}

INSTANTIATE_TEST_SUITE_P(Every, HonestModelOf, testing::ValuesIn(small_configs()),
                         [](const auto& instance) { return instance.param.name; });

class LeakingModel : public testing::TestWithParam<std::pair<const char*, Model::MixerFactory>> {};

TEST_P(LeakingModel, IsCaughtByEveryTestThatCanSeeIt) {
  Model model(tiny(), cpu_backend(), true, GetParam().second);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  const Certificate certificate = certify(model, pool, {.random_tokens = 4096});
  EXPECT_FALSE(certificate.passed());
  const std::set<std::string> failed = failed_tests(certificate);
  for (const char* name : {"a changed suffix changes no logit before it",
                           "a prefix alone has the logits it has within the whole",
                           "no gradient flows from a logit to a later embedding",
                           "token by token equals parallel", "chunks of 3 equal the whole",
                           "chunks of 17 equal the whole", "chunks of random sizes equal the whole"})
    EXPECT_TRUE(failed.count(name)) << name;
}

INSTANTIATE_TEST_SUITE_P(Every, LeakingModel,
                         testing::Values(std::pair{"own_block_at_level_2", &own_block<4>},
                                         std::pair{"own_block_at_level_3", &own_block<16>},
                                         std::pair{"own_prediction_error", &own_error},
                                         std::pair{"norm_over_time", &norm_over_time}),
                         [](const auto& instance) { return std::string(instance.param.first); });

TEST(LeakingModelThat, ReadsABlockOneTokenEarlyIsCaught) {
  Backend early = cpu_backend();
  std::get<void (*)(Context&, const CausalUpsample&)>(early.ops.kernels) = &upsample_early;
  std::get<void (*)(Context&, const CausalUpsampleBackward&)>(early.ops.kernels) = &upsample_early_backward;
  Model model(tiny(), early, true);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  const std::set<std::string> failed = failed_tests(certify(model, pool, {.random_tokens = 4096}));
  for (const char* name :
       {"a changed suffix changes no logit before it",
        "a prefix alone has the logits it has within the whole",
        "no gradient flows from a logit to a later embedding", "token by token equals parallel",
        "chunks of 3 equal the whole", "chunks of random sizes equal the whole"})
    EXPECT_TRUE(failed.count(name)) << name;
}

TEST(LeakingModelThat, ReadsItsNeighbourInTheBatchIsCaught) {
  Model model(tiny(), cpu_backend(), true, &neighbour);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  EXPECT_EQ(failed_tests(certify(model, pool, {.random_tokens = 4096})),
            std::set<std::string>{"documents packed together do not influence each other"});
}

TEST(HonestModel, PassesWithAStrideThatLeavesAPhaseFewTokens) {
  Model model(with_slowest_stride(512), cpu_backend(), true);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  for (uint64_t seed = 1; seed <= 3; ++seed)
    for (const CertificateTest& test : certify(model, pool, {.seed = seed, .random_tokens = 2048}).tests)
      EXPECT_TRUE(test.passed) << "seed " << seed << ": " << test.name << ": " << test.detail;
}

// A tenth of the work that every prefix in a text of three slow blocks, and 64 tokens of noise a phase, would
// be.
TEST(HonestModel, OfAStrideOf65536IsExaminedInBoundedWorkThatTheCertificateNames) {
  Model model(with_slowest_stride(65536), cpu_backend(), true);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  const Certificate certificate = certify(model, pool, {.random_tokens = 2048});
  for (const CertificateTest& test : certificate.tests) {
    EXPECT_TRUE(test.passed) << test.name << ": " << test.detail;
    const std::string expected =
        test.name.starts_with("no gradient")
            ? "64 tokens, all gradients exactly zero"  // one for each of the vocabulary
        : test.name.starts_with("random") ? "(262144 tokens"
                                          : "196643 tokens, all bits equal";
    EXPECT_NE(test.detail.find(expected), std::string::npos) << test.name << ": " << test.detail;
  }
  EXPECT_TRUE(certificate.tests.back().detail.ends_with(", 16 neighbouring phases together)"));
}

TEST(HonestModel, OfAStrideBeyondEveryTextIsExaminedAsFarAsTheCertificateSays) {
  Model model(with_slowest_stride(1 << 24), cpu_backend(), true);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  const Certificate certificate = certify(model, pool, {.random_tokens = 2048, .gradients = false});
  for (const CertificateTest& test : certificate.tests) {
    EXPECT_TRUE(test.passed) << test.name << ": " << test.detail;
    if (!test.name.starts_with("random")) {
      EXPECT_EQ(test.detail, "196643 tokens, all bits equal; too few to cross blocks of 16777216 tokens");
    }
  }
}

TEST(HonestModel, WithAWindowIsExaminedBeyondIt) {
  ModelConfig config;
  config.vocab_size = 37;
  config.mixer = {"attention"};
  config.d_model = 8;
  config.attention = {.n_heads = 2, .n_kv_heads = 1, .window = 400};
  Model model(config, cpu_backend(), false);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  for (const CertificateTest& test :
       certify(model, pool, {.random_tokens = 2048, .gradients = false}).tests) {
    EXPECT_TRUE(test.passed) << test.name << ": " << test.detail;
    if (!test.name.starts_with("random")) {
      EXPECT_EQ(test.detail, "563 tokens, all bits equal");
    }
  }
}

TEST(LeakingModelThat, LooksAheadWithinALongBlockIsCaught) {
  Model model(with_slowest_stride(8192), cpu_backend(), false, &block_end_ahead);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  const std::set<std::string> failed =
      failed_tests(certify(model, pool, {.random_tokens = 2048, .gradients = false}));
  for (const char* name : {"a changed suffix changes no logit before it",
                           "a prefix alone has the logits it has within the whole"})
    EXPECT_TRUE(failed.count(name)) << name;
}

// A leak lowers the loss only of a model that has learned to use it. Here that is written into the weights by
// hand: a token's embedding is its one-hot vector and the head reads it off, so that the tokens of the row's
// own block, three times in four the next one among them, are likelier than others.
TEST(LeakingModelThat, UsesTheLeakScoresNoiseBelowChance) {
  ModelConfig config = tiny();
  config.vocab_size = 16;
  config.d_model = 16;
  Model model(config, cpu_backend(), true, &strong_own_block);
  model.parameters().initialise(1);
  for (const char* name : {"embed.weight", "head.weight"}) {
    const Tensor& value = model.parameters().find(name)->value;
    for (int64_t r = 0; r < value.rows; ++r)
      for (int64_t c = 0; c < value.cols; ++c) value.row<float>(r)[c] = r == c ? 1.0f : 0.0f;
  }
  ThreadPool pool(2);
  const std::set<std::string> failed = failed_tests(certify(model, pool, {.random_tokens = 8192}));
  EXPECT_TRUE(failed.count("random tokens score no better than chance at every t mod 4"));
}

// Products with packed weights, as evaluation uses them, that bring the last row into the first one.
void leaking_product(Context& context, const Linear& op) {
  cpu::run(context, op);
  if (op.packed && op.y.rows > 1) op.y.row<float>(0)[0] += op.y.row<float>(op.y.rows - 1)[0];
}

TEST(LeakingModel, IsCaughtBesideAMeasurementWhereOnlyThePathThatIsMeasuredLeaks) {
  Backend backend = cpu_backend();
  std::get<void (*)(Context&, const Linear&)>(backend.ops.kernels) = &leaking_product;
  Model model(tiny(), backend, false);
  initialise_for_test(model, 1);
  ThreadPool pool(2);
  EXPECT_TRUE(certify(model, pool, {.random_tokens = 2048, .gradients = false}).passed());
  EXPECT_FALSE(certify_for_measurement(model, pool).passed());
}

}  // namespace
}  // namespace harmonic
