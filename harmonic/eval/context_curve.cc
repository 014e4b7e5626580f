#include "harmonic/eval/context_curve.h"

#include <algorithm>

#include "harmonic/base/error.h"
#include "harmonic/base/log.h"
#include "harmonic/eval/batch_forward.h"
#include "harmonic/eval/exact_sum.h"

namespace harmonic {

void check_contexts(const TokenCorpus& corpus, const ContextOptions& options) {
  for (const int64_t context : options.contexts) {
    if (context < options.group)
      fail_usage("a context of {} tokens has no room for {} targets; give longer contexts or fewer targets",
                 context, options.group);
    if (std::max(context, options.longest) >= corpus.tokens())
      fail_usage("a context of {} tokens: the texts have {} in all; give more text",
                 std::max(context, options.longest), corpus.tokens());
  }
}

std::vector<TargetBits> bits_by_context(Inference& inference, const TokenCorpus& corpus,
                                        const ContextOptions& options) {
  check_contexts(corpus, options);
  const int64_t longest =
      std::max(options.longest, *std::max_element(options.contexts.begin(), options.contexts.end()));
  // A group's last target is token `end`; so many places from `longest` on.
  const int64_t places = corpus.targets() - longest + 1;
  int64_t groups = (places - 1) / options.group + 1;
  if (options.groups > 0) groups = std::min(groups, options.groups);
  BatchForward forward(inference);
  std::vector<TargetBits> results;
  for (const int64_t context : options.contexts) {
    ExactSum nats;
    const int64_t together = std::clamp<int64_t>(BatchForward::kRowsPerPass / context, 1, groups);
    for (int64_t first = 0; first < groups; first += together) {
      Batch batch;
      batch.clear();
      for (int64_t i = first; i < std::min(groups, first + together); ++i) {
        const int64_t end = longest + (groups == 1 ? 0 : (places - 1) * i / (groups - 1));
        batch.add_sequence();
        batch.append(corpus, end - context, context, false, false);
      }
      forward.run(batch, batch.rows(), [&](const BatchForward::Pass& pass) {
        const int32_t* targets = batch.targets.data() + pass.begin;
        const Tensor losses = inference.losses(pass.hidden, targets);
        for (int64_t r = 0; r < pass.hidden.rows; ++r)
          if ((pass.begin + r) % context >= context - options.group) nats.add(number_at(losses, 0, r));
      });
      if (options.show_progress)
        progress(
            fmt::format("context {}: {} of {} groups", context, std::min(groups, first + together), groups));
    }
    results.push_back({groups * options.group, nats.value() * kBitsPerNat});
  }
  return results;
}

}  // namespace harmonic
