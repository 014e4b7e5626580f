// One forward pass: however a text is split, batched or threaded, the same bits come out.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harmonic/model/presets.h"
#include "harmonic/ops/simd_targets.h"
#include "small_models.h"

namespace harmonic {
namespace {

class OneForwardPass : public testing::TestWithParam<NamedConfig> {
 protected:
  struct Outcome {
    std::vector<float> logits;
    State state;
    bool operator==(const Outcome& other) const {
      return logits.size() == other.logits.size() && state == other.state &&
             std::memcmp(logits.data(), other.logits.data(), logits.size() * sizeof(float)) == 0;
    }
  };

  OneForwardPass() : model_(GetParam().config, cpu_backend(), false) {
    initialise_for_test(model_, 3);
    text_ = random_text(203, GetParam().config.vocab_size, 4);
  }

  // `sizes` are used in turn, again and again.
  Outcome run(const std::vector<int64_t>& sizes, int threads, bool packed = false) {
    return run_on(model_, sizes, threads, packed);
  }
  Outcome run_on(Model& model, const std::vector<int64_t>& sizes, int threads, bool packed = false) {
    ThreadPool pool(threads);
    Inference inference(model, pool);
    if (packed) model.pack(inference.context());
    Outcome outcome{{}, State(model.state_layout())};
    const StateRows row(outcome.state, model.state_layout());
    const auto total = static_cast<int64_t>(text_.size());
    size_t turn = 0;
    for (int64_t begin = 0; begin < total;) {
      const int64_t size = std::min(total - begin, sizes[turn++ % sizes.size()]);
      const int64_t offsets[2] = {0, size};
      const Tensor logits = inference.logits(inference.hidden(text_.data() + begin, {offsets, 1}, row, row));
      for (int64_t r = 0; r < size; ++r)
        outcome.logits.insert(outcome.logits.end(), logits.row<float>(r), logits.row<float>(r) + logits.cols);
      begin += size;
    }
    return outcome;
  }

  Model model_;
  std::vector<int32_t> text_;
};

TEST_P(OneForwardPass, AnySplitOfTheTextGivesTheSameBits) {
  const Outcome whole = run({1 << 20}, 1);
  EXPECT_EQ(whole.state.position(), text_.size());
  for (int64_t size : {1, 3, 5, 15, 17, 64}) EXPECT_TRUE(run({size}, 1) == whole) << "chunks of " << size;
  EXPECT_TRUE(rc::check([&] {
    const auto sizes = *rc::gen::nonEmpty(rc::gen::container<std::vector<int64_t>>(rc::gen::inRange(1, 70)));
    RC_ASSERT(run(sizes, *rc::gen::inRange(1, 4)) == whole);
  }));
}

TEST_P(OneForwardPass, ThreadsAndPackedWeightsDoNotChangeTheBits) {
  const Outcome whole = run({1 << 20}, 1);
  EXPECT_TRUE(run({1 << 20}, 2) == whole);
  EXPECT_TRUE(run({31}, 3) == whole);
  EXPECT_TRUE(run({1 << 20}, 1, true) == whole);
  EXPECT_TRUE(run({1}, 2, true) == whole);
}

TEST_P(OneForwardPass, EverySetOfVectorInstructionsGivesTheSameBits) {
  const Outcome best = run({1 << 20}, 1);
  for (const std::string_view target : simd_target_names()) {
    const UseSimdTarget use(target);
    EXPECT_TRUE(run({1 << 20}, 2) == best) << target;
    EXPECT_TRUE(run({1, 30}, 1) == best) << target;
  }
}

TEST_P(OneForwardPass, PackedMatricesAreTheOnlyOnesAndTheSameWeights) {
  const std::string before = model_.parameters().hash();
  const Outcome whole = run({1 << 20}, 1);
  EXPECT_TRUE(run({1 << 20}, 2, true) == whole);
  EXPECT_EQ(model_.parameters().hash(), before);
  int64_t packed = 0;
  for (size_t i = 0; i < model_.parameters().size(); ++i) {
    const Parameter& parameter = model_.parameters()[i];
    EXPECT_EQ(parameter.value.data == nullptr, static_cast<bool>(parameter.packed)) << parameter.name;
    packed += parameter.packed ? 1 : 0;
  }
  EXPECT_GT(packed, 0);
}

// Narrow weights keep the promise: the bits of a model whose matrices were rounded, however it is run.
TEST_P(OneForwardPass, NarrowWeightsGiveTheBitsOfTheRoundedModel) {
  for (const DType format : {DType::bf16, DType::i8}) {
    Model narrow(GetParam().config, cpu_backend(), false);
    initialise_for_test(narrow, 3);
    ThreadPool pool(2);
    Inference inference(narrow, pool);
    narrow.pack(inference.context(), format);
    for (size_t i = 0; i < narrow.parameters().size(); ++i) {
      const Parameter& from = narrow.parameters()[i];
      const Tensor& to = model_.parameters()[i].value;
      for (int64_t r = 0; r < to.rows; ++r) {
        if (from.packed) {
          EXPECT_EQ(from.value.data, nullptr) << from.name << " is there twice";
          unpack_row(from.packed, to.rows, to.cols, r, to.row<float>(r));
        } else {
          std::memcpy(to.row<float>(r), from.value.row<float>(r),
                      static_cast<size_t>(to.cols) * sizeof(float));
        }
      }
    }
    EXPECT_EQ(narrow.parameters().hash(), model_.parameters().hash());
    const Outcome rounded = run({1 << 20}, 1);
    for (const std::string_view target : simd_target_names()) {
      const UseSimdTarget use(target);
      for (const int64_t size : {1, 5, 31, 1 << 20})
        EXPECT_TRUE(run_on(narrow, {size}, 2) == rounded)
            << name_of(format) << ", chunks of " << size << ", " << target;
    }
  }
}

// Five texts of different lengths that stand at different positions mod 16, in one batch.
TEST_P(OneForwardPass, NeighboursInABatchDoNotChangeTheBits) {
  const StateLayout& layout = model_.state_layout();
  ThreadPool pool(2);
  Inference inference(model_, pool);
  constexpr int64_t kTexts = 5;
  const int64_t before[kTexts] = {0, 3, 15, 16, 50}, now[kTexts] = {20, 1, 0, 37, 9};
  Arena arena;
  const StateRows states = make_state_rows(arena, layout, kTexts);
  std::vector<int32_t> tokens;
  std::vector<int64_t> offsets = {0};
  std::vector<State> alone(kTexts, State(layout));
  std::vector<std::vector<float>> logits_alone(kTexts);
  for (int64_t b = 0; b < kTexts; ++b) {
    const std::vector<int32_t> text =
        random_text(before[b] + now[b], model_.config().vocab_size, 100 + static_cast<uint64_t>(b));
    State& state = alone[static_cast<size_t>(b)];
    if (before[b] > 0) inference.advance(state, text.data(), before[b]);
    states.set(b, state);
    tokens.insert(tokens.end(), text.begin() + before[b], text.end());
    offsets.push_back(offsets.back() + now[b]);
    if (now[b] == 0) continue;
    const Tensor logits = inference.advance(state, text.data() + before[b], now[b]);
    logits_alone[static_cast<size_t>(b)].assign(logits.row<float>(0), logits.row<float>(0) + logits.cols);
  }
  const Tensor logits =
      inference.logits(inference.hidden(tokens.data(), {offsets.data(), kTexts}, states, states));
  for (int64_t b = 0; b < kTexts; ++b) {
    State state(layout);
    states.get(b, state);
    EXPECT_TRUE(state == alone[static_cast<size_t>(b)]) << "text " << b;
    if (now[b] == 0) continue;
    const float* row = logits.row<float>(offsets[static_cast<size_t>(b) + 1] - 1);
    EXPECT_EQ(0, std::memcmp(row, logits_alone[static_cast<size_t>(b)].data(),
                             static_cast<size_t>(logits.cols) * sizeof(float)))
        << "text " << b;
  }
}

TEST_P(OneForwardPass, AStateCanBeForkedAndBothGoOnAlike) {
  ThreadPool pool(1);
  Inference inference(model_, pool);
  State first(model_.state_layout());
  inference.advance(first, text_.data(), 101);
  State second = first;
  inference.advance(first, text_.data() + 101, 60);
  inference.advance(second, text_.data() + 101, 60);
  EXPECT_TRUE(first == second);
}

TEST_P(OneForwardPass, AgreesWithTheReferenceBackend) {
  Model reference(GetParam().config, reference_backend(), false);
  initialise_for_test(reference, 3);
  ThreadPool pool(1);
  Inference precise(reference, pool), fast(model_, pool);
  State precise_state(reference.state_layout()), fast_state(model_.state_layout());
  const auto total = static_cast<int64_t>(text_.size());
  const Tensor expected = precise.advance(precise_state, text_.data(), total);
  const Tensor found = fast.advance(fast_state, text_.data(), total);
  double difference = 0, size = 0;
  for (int64_t v = 0; v < expected.cols; ++v) {
    difference += std::pow(number_at(expected, 0, v) - number_at(found, 0, v), 2);
    size += std::pow(number_at(expected, 0, v), 2);
  }
  EXPECT_LE(std::sqrt(difference / size), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Every, OneForwardPass, testing::ValuesIn(small_configs()),
                         [](const auto& instance) { return instance.param.name; });

TEST(Attention, RefusesATextLongerThanItsContextUnlessItHasAWindow) {
  ModelConfig config;
  config.mixer = {"attention"};
  config.vocab_size = 37;
  config.d_model = 8;
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 20};
  ThreadPool pool(1);
  const std::vector<int32_t> text = random_text(21, 37, 1);
  for (const int64_t window : {0, 4}) {
    config.attention.window = window;
    Model model(config, cpu_backend(), false);
    initialise_for_test(model, 3);
    Inference inference(model, pool);
    State state(model.state_layout());
    inference.advance(state, text.data(), 20);
    if (window > 0) {
      EXPECT_NO_THROW(inference.advance(state, text.data() + 20, 1));
    } else {
      EXPECT_THROW(inference.advance(state, text.data() + 20, 1), Error);
    }
  }
}

int64_t core_of(const Model& model) {
  return model.parameters().count() - model.parameters().count(Role::embedding);
}

TEST(Presets, HaveThePapersNumberOfWeights) {
  const Model paper(preset_named("paper").config, reference_backend(), false);
  EXPECT_EQ(paper.parameters().count(Role::matrix), 34 * 256 * 256);
  for (const Preset& preset : presets()) {
    const Model model(preset.config, reference_backend(), false);
    EXPECT_EQ(model.parameters().count(Role::embedding), 25'731'584) << preset.name;
    const bool equal_core = preset.name.starts_with("equal-core");
    const int64_t expected = equal_core ? core_of(paper) : preset.paper_core;
    EXPECT_NEAR(static_cast<double>(core_of(model)) / static_cast<double>(expected), 1,
                equal_core ? 0.02 : 0.08)
        << preset.name;
  }
}

}  // namespace
}  // namespace harmonic
