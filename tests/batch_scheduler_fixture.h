// A scheduler that serves, what requests to it came to, and what they should have come to.
#pragma once

#include <gtest/gtest.h>

#include <future>
#include <latch>

#include "harmonic/base/utf8.h"
#include "harmonic/runtime/batch_scheduler.h"
#include "harmonic/runtime/text_stream.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {

// Everything that a request came to.
struct Result {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<double> logprobs, scored;
  GenerationEnd end;
  std::vector<std::pair<int64_t, TextPoint>> boundaries;
};

class Collector : public GenerationListener {
 public:
  void on_scored(std::span<const TokenReport> tokens) override {
    for (const TokenReport& token : tokens) result_.scored.push_back(token.logprob);
  }
  void on_boundary(int64_t tokens, const LazyPoint& at) override {
    result_.boundaries.emplace_back(tokens, at.point());
  }
  void on_token(const TokenReport& token) override {
    if (first_) first_->count_down();
    first_.reset();
    result_.text += token.text;
    result_.tokens.push_back(token.token);
    result_.logprobs.push_back(token.logprob);
  }
  void on_end(GenerationEnd end) override {
    result_.text += end.text;
    result_.end = std::move(end);
    done_.set_value();
  }
  Result wait() {
    done_.get_future().wait();
    return std::move(result_);
  }
  void tell_first_token(std::shared_ptr<std::latch> latch) { first_ = std::move(latch); }

 private:
  Result result_;
  std::promise<void> done_;
  std::shared_ptr<std::latch> first_;
};

struct Served {
  explicit Served(const ModelConfig& config, SchedulerOptions options = {.threads = 1})
      : tokenizer(make_byte_tokenizer()), model(config, cpu_backend(), false) {
    initialise_for_test(model, 3);
    scheduler.emplace(model, *tokenizer, options);
  }
  explicit Served(SchedulerOptions options = {.threads = 1})
      : Served(tiny_config(*make_byte_tokenizer()), options) {}

  GenerationRequest request(const std::string& prompt, int64_t max_tokens, uint64_t seed = 1) const {
    GenerationRequest request;
    request.from = beginning_of_text(model);
    request.tokens = tokenizer->encode(prompt);
    request.max_tokens = max_tokens;
    request.sampling.seed = seed;
    request.alternatives = 2;
    return request;
  }
  Result run(GenerationRequest request) {
    const auto listener = std::make_shared<Collector>();
    scheduler->submit(std::move(request), listener);
    return listener->wait();
  }

  std::unique_ptr<Tokenizer> tokenizer;
  Model model;
  std::optional<BatchScheduler> scheduler;
};

// What TextStream and Sampler give, one token at a time: the definition.
inline Result expected_of(const Model& model, const Tokenizer& tokenizer, const GenerationRequest& request) {
  ThreadPool pool(1);
  Inference inference(model, pool);
  TextStream stream(inference, tokenizer.bos());
  std::vector<double> bits;
  stream.append(request.tokens);
  Sampler sampler(request.sampling);
  Result result;
  Utf8Stream characters;
  while (static_cast<int64_t>(result.tokens.size()) < request.max_tokens) {
    const Tensor logits = stream.next_logits();
    const int32_t token = sampler.sample(logits, stream.length());
    result.tokens.push_back(token);
    result.logprobs.push_back(LogProbabilities(logits).of(token));
    if (token == tokenizer.eot()) {
      stream.restart();
      result.text += characters.flush();
      if (!request.ignore_end) break;
      result.text += "\n\n";
    } else {
      result.text += characters.push(tokenizer.bytes_of(token));
      stream.append({token});
    }
  }
  return result;
}

inline std::vector<ModelConfig> configs() {
  std::vector<ModelConfig> result;
  for (const NamedConfig& named : small_configs()) {
    result.push_back(named.config);
    result.back().vocab_size = 256;
  }
  return result;
}

}  // namespace harmonic
