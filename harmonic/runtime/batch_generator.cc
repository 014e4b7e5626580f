#include "harmonic/runtime/batch_generator.h"

#include <algorithm>
#include <map>
#include <vector>

#include "harmonic/base/interrupt.h"
#include "harmonic/base/random.h"
#include "harmonic/model/running_states.h"

namespace harmonic {
namespace {

// A text being written.
struct Slot {
  int64_t index;
  Sampler sampler;
  std::vector<int32_t> text;  // without its leading token
  int32_t pending;            // the last token, which the state has not seen
};

// The seed of text i: as far from those of others as any.
uint64_t seed_of(uint64_t seed, int64_t i) {
  return Random(seed, stream_of("texts at once")).bits(static_cast<uint64_t>(i));
}

}  // namespace

void generate_texts(Inference& inference, const Tokenizer& tokenizer, const std::string& prompt,
                    const BatchGeneratorOptions& options,
                    const std::function<void(const std::string&)>& use) {
  const StateLayout& layout = inference.model().state_layout();
  const std::vector<int32_t> prompt_tokens = tokenizer.encode(prompt);
  const int64_t longest = inference.model().config().longest_text();
  const auto prompt_size = static_cast<int64_t>(prompt_tokens.size());
  const int64_t together = std::min(options.together, options.count);
  RunningStates states(layout, inference.model().backend(), together);
  // The state of every text before its first choice: the prompt has been read but for its last token.
  State start(layout);
  int32_t first = tokenizer.bos();
  for (const int32_t token : prompt_tokens) {
    inference.advance(start, &first, 1);
    first = token;
  }
  std::vector<Slot> slots;
  std::map<int64_t, std::string> finished;  // that wait for earlier ones
  int64_t begun = 0, used = 0;
  const auto begin = [&](size_t slot) {
    SamplingOptions sampling = options.sampling;
    sampling.seed = seed_of(options.sampling.seed, begun);
    const Slot fresh{begun++, Sampler(sampling), prompt_tokens, first};
    if (slot == slots.size()) {
      slots.push_back(fresh);
    } else {
      slots[slot] = fresh;
    }
    states.set(static_cast<int64_t>(slot), start);
  };
  while (static_cast<int64_t>(slots.size()) < together) begin(slots.size());
  std::vector<int32_t> tokens;
  std::vector<TokenChoice> choices;
  while (!slots.empty()) {
    stop_if_interrupted();
    const auto count = static_cast<int64_t>(slots.size());
    tokens.clear();
    choices.clear();
    for (const Slot& slot : slots) {
      tokens.push_back(slot.pending);
      choices.push_back(slot.sampler.choice(slot.text.size() + 1));
    }
    const int32_t* chosen =
        inference.next_tokens(tokens.data(), states.before(count), states.after(count), choices.data());
    states.advance();
    for (int64_t s = count; s-- > 0;) {
      Slot& slot = slots[static_cast<size_t>(s)];
      const auto length = static_cast<int64_t>(slot.text.size());
      bool ended = length - prompt_size >= options.max_tokens;
      if (!ended) {
        const int32_t token = Sampler::chosen(chosen[s]);
        ended = token == tokenizer.eot();
        if (!ended) {
          slot.text.push_back(token);
          slot.pending = token;
          ended = length + 1 - prompt_size >= options.max_tokens || (longest > 0 && length + 1 >= longest);
        }
      }
      if (!ended) continue;
      finished[slot.index] = tokenizer.decode(slot.text);
      if (begun < options.count) {
        begin(static_cast<size_t>(s));
        continue;
      }
      // The last slot takes its place.
      const auto last = static_cast<int64_t>(slots.size()) - 1;
      if (s != last) {
        states.move(last, s);
        slots[static_cast<size_t>(s)] = std::move(slots.back());
      }
      slots.pop_back();
    }
    for (auto next = finished.begin(); next != finished.end() && next->first == used; ++used) {
      use(next->second);
      next = finished.erase(next);
    }
  }
}

}  // namespace harmonic
