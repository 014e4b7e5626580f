#include "harmonic/eval/recall.h"

#include "harmonic/base/checked.h"

namespace harmonic {

RecallTask::RecallTask(RecallOptions options, RecallText text, const Tokenizer& tokenizer)
    : options_(std::move(options)), text_(std::move(text)), tokenizer_(tokenizer) {
  for (const int64_t pairs : options_.pairs)
    for (const int64_t distance : options_.distances) RecallText::check_distance(pairs, distance);
  const auto count = [](const std::vector<int64_t>& list) { return static_cast<int64_t>(list.size()); };
  all_ = checked_mul(checked_mul(count(options_.pairs), count(options_.distances), "groups"),
                     options_.examples, "groups x examples");
}

std::vector<TaskGroup> RecallTask::groups() const {
  std::vector<TaskGroup> groups;
  for (const int64_t pairs : options_.pairs)
    for (const int64_t distance : options_.distances)
      groups.push_back({pairs == 1 ? fmt::format("passkey at {}", distance)
                                   : fmt::format("{} pairs at {}", pairs, distance),
                        RecallText::chance(pairs)});
  return groups;
}

bool RecallTask::next(TaskExample& example) {
  if (next_ == all_) return false;
  const auto group = static_cast<size_t>(next_ / options_.examples);
  const RecallQuestion question =
      text_.question(options_.seed, static_cast<uint64_t>(next_ % options_.examples),
                     options_.pairs[group / options_.distances.size()],
                     options_.distances[group % options_.distances.size()]);
  ++next_;
  example.prefix.assign(1, tokenizer_.bos());
  tokenizer_.encode(question.prefix, example.prefix);
  example.target.clear();
  tokenizer_.encode_continuation(question.value, example.target);
  example.group = group;
  return true;
}

}  // namespace harmonic
