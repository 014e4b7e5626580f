#include "harmonic/ops/token_chooser.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "harmonic/base/portable_math.h"

namespace harmonic {
namespace {

double logit_at(const Tensor& logits, int64_t v) {
  return logits.dtype == DType::f64 ? logits.as<double>()[v] : static_cast<double>(logits.as<float>()[v]);
}

}  // namespace

// The candidate of this rank, 0 being the likeliest: the heap gives only as many as are asked for, since
// sorting a large vocabulary would cost more than the rest of a small model.
const TokenChooser::Candidate& TokenChooser::ranked(size_t rank) {
  for (; taken_ <= rank; ++taken_)
    std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(taken_), less_likely);
  return candidates_[candidates_.size() - 1 - rank];
}

int32_t TokenChooser::choose(const Tensor& logits, const TokenChoice& choice) {
  double most = -std::numeric_limits<double>::infinity();
  int32_t likeliest = 0;
  for (int64_t v = 0; v < logits.cols; ++v) {
    const double logit = logit_at(logits, v);
    if (!std::isfinite(logit)) return -1;
    if (logit > most) {
      most = logit;
      likeliest = static_cast<int32_t>(v);
    }
  }
  if (choice.temperature <= 0) return likeliest;

  candidates_.clear();
  taken_ = 0;
  for (int64_t v = 0; v < logits.cols; ++v)
    candidates_.push_back({logit_at(logits, v), 1, static_cast<int32_t>(v)});
  if (choice.top_k > 0 && choice.top_k < logits.cols) {
    const auto end = candidates_.begin() + choice.top_k;
    std::partial_sort(candidates_.begin(), end, candidates_.end(),
                      [](const Candidate& a, const Candidate& b) { return less_likely(b, a); });
    candidates_.erase(end, candidates_.end());
  }
  // Sums are taken in the order of ids or of ranks: in no order that a library could choose.
  double total = 0;
  for (Candidate& candidate : candidates_) {
    candidate.weight = portable::exp_falling((candidate.logit - most) / choice.temperature);
    total += candidate.weight;
  }
  if (choice.top_p < 1) {
    std::make_heap(candidates_.begin(), candidates_.end(), less_likely);
    double reached = ranked(0).weight;
    size_t kept = 1;
    for (; kept < candidates_.size() && reached < choice.top_p * total; ++kept)
      reached += ranked(kept).weight;
    candidates_.erase(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(kept));
  }
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < choice.min_p; });
  if (is_ranked(choice))
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });

  double mass = 0;
  for (const Candidate& candidate : candidates_) mass += candidate.weight;
  double remaining = choice.uniform * mass;
  for (const Candidate& candidate : candidates_) {
    if (remaining < candidate.weight) return candidate.token;
    remaining -= candidate.weight;
  }
  return candidates_.back().token;  // what rounding left
}

}  // namespace harmonic
