// Texts that go on together by one step at a time.
#include "harmonic/model/running_states.h"

#include <gtest/gtest.h>

#include <set>

#include "emulated_cuda.h"
#include "harmonic/base/random.h"
#include "harmonic/model/inference.h"
#include "harmonic/ops/cuda_plugin.h"
#include "small_models.h"

namespace harmonic {
namespace {

constexpr int64_t kTexts = 5, kSteps = 100;

std::vector<const Backend*> backends() {
  std::vector<const Backend*> all = {&cpu_backend(), &emulated_cuda_device_backend()};
  if (a_card_is_tested()) all.push_back(cuda_plugin().f32);
  return all;
}

// A text by itself: the token that follows, by the definition.
int32_t next_alone(Inference& inference, State& state, int32_t token, const TokenChoice& choice) {
  TokenChooser chooser;
  return chooser.choose(inference.advance(state, &token, 1), choice);
}

TokenChoice choice_of(int64_t text, int64_t step, bool ranked) {
  TokenChoice choice;
  choice.temperature = text == 0 ? 0 : 1;
  choice.top_k = ranked ? 7 : 0;
  choice.uniform = Random(3, static_cast<uint64_t>(text)).uniform(static_cast<uint64_t>(step));
  return choice;
}

// Texts at other places of the slow levels' blocks, one of which ends and is followed by another.
void expect_as_alone(const ModelConfig& config, const Backend& backend, bool ranked) {
  Model model(config, backend, false);
  initialise_for_test(model, 4);
  ThreadPool pool(2);
  Inference together(model, pool), alone(model, pool);
  RunningStates states(model.state_layout(), backend, kTexts);
  std::vector<State> expected(kTexts, State(model.state_layout()));
  std::vector<int32_t> tokens;
  for (int64_t b = 0; b < kTexts; ++b) {
    const std::vector<int32_t> begun(static_cast<size_t>(3 * b), 1);
    if (b > 0) alone.advance(expected[static_cast<size_t>(b)], begun.data(), 3 * b);
    states.set(b, expected[static_cast<size_t>(b)]);
    tokens.push_back(static_cast<int32_t>(b + 2));
  }
  int64_t count = kTexts;
  State found(model.state_layout());
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<TokenChoice> choices;
    for (int64_t b = 0; b < count; ++b) choices.push_back(choice_of(b, step, ranked));
    const int32_t* chosen =
        together.next_tokens(tokens.data(), states.before(count), states.after(count), choices.data());
    states.advance();
    for (int64_t b = 0; b < count; ++b) {
      const auto i = static_cast<size_t>(b);
      ASSERT_EQ(chosen[b], next_alone(alone, expected[i], tokens[i], choices[i]))
          << backend.name << ", step " << step << ", text " << b;
      tokens[i] = chosen[b];
      states.get(b, found);
      ASSERT_EQ(found.position(), expected[i].position());
      ASSERT_TRUE(backend.device != Device::cpu || found == expected[i]);
    }
    if (step == 60) {  // the last takes the place of the second
      states.move(--count, 1);
      expected[1] = expected[static_cast<size_t>(count)];
      tokens[1] = tokens[static_cast<size_t>(count)];
    }
  }
  states.clear();
  states.get(0, found);
  EXPECT_EQ(found.position(), 0u);
}

TEST(RunningStates, TextsTogetherGoOnAsEachAlone) {
  const std::set<std::string> kinds = {"levels", "sandwich_selective_deep", "harmonic_then_mamba_with_ffn",
                                       "attention", "matrix"};
  for (const NamedConfig& named : small_configs()) {
    if (!kinds.contains(named.name)) continue;
    SCOPED_TRACE(named.name);
    for (const Backend* backend : backends()) expect_as_alone(named.config, *backend, false);
  }
}

TEST(RunningStates, ChoicesByRankAreTheProgramsAnywhere) {
  for (const Backend* backend : backends()) expect_as_alone(small_configs().front().config, *backend, true);
}

TEST(RunningStates, AStateThatIsSetAtOnceStays) {
  for (const Backend* backend : backends()) {
    Model model(small_configs().front().config, *backend, false);
    initialise_for_test(model, 4);
    ThreadPool pool(1);
    Inference inference(model, pool);
    State state(model.state_layout()), found(model.state_layout());
    const std::vector<int32_t> text(21, 3);
    inference.advance(state, text.data(), 21);
    RunningStates states(model.state_layout(), *backend, 2);
    states.set(1, state);
    backend->synchronize();
    states.get(1, found);
    EXPECT_TRUE(found == state);
  }
}

TEST(RunningStates, StepsThatRepeatThemselvesAreReplayed) {
  const ModelConfig config = small_configs().front().config;
  const int64_t before = emulated_replays();
  expect_as_alone(config, emulated_cuda_device_backend(), false);
  EXPECT_GT(emulated_replays(), before + 20);
}

}  // namespace
}  // namespace harmonic
