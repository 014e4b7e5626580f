// Streams that write: how fast beside the same texts without HTTP, and how soon beside a long prompt.
#include <condition_variable>

#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"
#include "harmonic/base/random.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/runtime/batch_scheduler.h"

namespace harmonic {

namespace asio = boost::asio;

namespace {

constexpr int kRounds = 3;

std::string description_of(const Model& model) {
  return fmt::format("{:.1f}M weights, vocabulary {}", static_cast<double>(model.parameters().count()) * 1e-6,
                     model.config().vocab_size);
}

// A figure of a model for which less is asked is shown as a bound of what the others come to.
std::string asked(const LoadOptions& options, const char* words) {
  return options.judged ? words : fmt::format("({})", words);
}
Verdict judge(const LoadOptions& options, bool holds) {
  return options.judged ? verdict(holds) : Verdict::none;
}

// Greedy: choosing at random takes longer, of weights that are random too much longer, and would hide HTTP.
Json stream_request(int64_t number, int64_t tokens) {
  return {{"prompt", fmt::format("Text {}: ", number)},
          {"max_tokens", tokens},
          {"temperature", 0},
          {"ignore_end", true},
          {"stream", true}};
}

// The text that the events of a stream hold together; they may come in any pieces.
class StreamText {
 public:
  void take(std::string_view piece) {
    waiting_ += piece;
    for (size_t end; (end = waiting_.find("\n\n")) != waiting_.npos; waiting_.erase(0, end + 2)) {
      if (!waiting_.starts_with("data: {")) continue;
      const Json event = parse_json(waiting_.substr(6, end - 6), "an event");
      for (const Json& choice : event.at("choices")) text += choice.at("text").get<std::string>();
    }
  }
  std::string text;

 private:
  std::string waiting_;
};

asio::awaitable<void> read_stream(asio::io_context& loop, int port, int64_t number, int64_t tokens,
                                  std::string& events) {
  LoadClient client(loop);
  co_await client.connect(port, static_cast<uint32_t>((2 << 16) + 1 + number % 250));
  const Answer answer = co_await client.ask(post_request("/v1/completions", stream_request(number, tokens)),
                                            [&](std::string_view piece) { events += piece; });
  if (answer.status != 200) fail("a stream was answered {}", answer.status);
}

// Seconds that the streams took together. Their texts are taken from the events afterwards: that is the
// client's work.
double over_http(int port, int64_t streams, int64_t tokens, std::vector<std::string>& texts) {
  Load load;
  std::vector<std::string> events(static_cast<size_t>(streams));
  const auto begin = Clock::now();
  for (int64_t i = 0; i < streams; ++i)
    load.start(read_stream(load.loop(), port, i, tokens, events[static_cast<size_t>(i)]));
  load.run();
  const double seconds = seconds_since(begin);
  texts.clear();
  for (const std::string& raw : events) {
    StreamText text;
    text.take(raw);
    texts.push_back(std::move(text.text));
  }
  return seconds;
}

// The same texts of a scheduler in this process.
class WithoutHttp {
 public:
  WithoutHttp(const LoadOptions& options, int64_t streams)
      : loaded_(load_model_folder(options.model, cpu_backend())),
        scheduler_(*loaded_.model, *loaded_.tokenizer,
                   {.threads = static_cast<int>(options.threads), .max_batch = streams}) {}

  const Model& model() const { return *loaded_.model; }

  double run(int64_t streams, int64_t tokens, std::vector<std::string>& texts) {
    texts.assign(static_cast<size_t>(streams), {});
    left_ = streams;
    const auto begin = Clock::now();
    for (int64_t i = 0; i < streams; ++i) {
      GenerationRequest request;
      request.from = beginning_of_text(*loaded_.model);
      loaded_.tokenizer->encode(fmt::format("Text {}: ", i), request.tokens);
      request.max_tokens = tokens;
      request.sampling.temperature = 0;
      request.ignore_end = true;
      scheduler_.submit(std::move(request), std::make_shared<Listener>(*this, texts[static_cast<size_t>(i)]));
    }
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return left_ == 0; });
    return seconds_since(begin);
  }

 private:
  class Listener : public GenerationListener {
   public:
    Listener(WithoutHttp& owner, std::string& text) : owner_(owner), text_(text) {}
    void on_token(const TokenReport& token) override { text_ += token.text; }
    void on_end(GenerationEnd end) override {
      text_ += end.text;
      if (!end.point.unfinished.empty()) text_ += "\xEF\xBF\xBD";  // as the server shows a cut character
      const std::lock_guard lock(owner_.mutex_);
      if (--owner_.left_ == 0) owner_.ended_.notify_one();
    }

   private:
    WithoutHttp& owner_;
    std::string& text_;
  };

  LoadedModel loaded_;
  std::mutex mutex_;
  std::condition_variable ended_;
  int64_t left_ = 0;
  BatchScheduler scheduler_;  // the last: it uses the others
};

}  // namespace

void run_throughput(const LoadOptions& options, int64_t streams, int64_t tokens) {
  const int port = static_cast<int>(options.port);
  WithoutHttp without(options, streams);
  std::vector<double> with_seconds, without_seconds;
  for (int round = 0; round < kRounds; ++round) {  // in turns: what else the machine does meets both
    std::vector<std::string> with_texts, without_texts;
    with_seconds.push_back(over_http(port, streams, tokens, with_texts));
    without_seconds.push_back(without.run(streams, tokens, without_texts));
    if (with_texts != without_texts) fail("the texts over HTTP are not those without");
  }
  const auto all = static_cast<double>(streams * tokens);
  const double with = all / quantile(with_seconds, 0.5), plain = all / quantile(without_seconds, 0.5);
  show(fmt::format("{}: tokens/s of {} greedy streams, the texts being those without HTTP",
                   description_of(without.model()), streams),
       asked(options, "85 % of those without"),
       fmt::format("{:.0f}/s, {:.0f}/s without: {:.0f} % (medians of {} in turns)", with, plain,
                   100 * with / plain, kRounds),
       judge(options, with >= 0.85 * plain));
}

namespace {

constexpr int kTimes = 40;
constexpr int64_t kStepTokens = 500;

// Seconds to the first token of short prompts, each new so that nothing is known of it.
asio::awaitable<void> ask_shortly(LoadClient& client, int64_t first, std::vector<double>& seconds,
                                  const bool* until) {
  for (int64_t i = 0; until ? !*until : i < kTimes; ++i) {
    const Answer answer = co_await client.ask(post_request("/v1/completions", stream_request(first + i, 1)));
    if (answer.status != 200) fail("a short prompt was answered {}: {}", answer.status, answer.body);
    if (!until || !*until) seconds.push_back(answer.to_first);
  }
}

// Of a stream that is alone: its first token leaves at once, and the others take equally long.
asio::awaitable<void> time_steps(LoadClient& client, std::vector<double>& steps) {
  for (int i = 0; i < kRounds; ++i) {
    const Answer answer =
        co_await client.ask(post_request("/v1/completions", stream_request(i, kStepTokens)));
    if (answer.status != 200) fail("a stream was answered {}", answer.status);
    steps.push_back((answer.to_end - answer.to_first) / (kStepTokens - 1));
  }
}

asio::awaitable<void> read_long_prompt(asio::io_context& loop, int port, const std::vector<int32_t>& prompt,
                                       double& seconds, bool& ended) {
  LoadClient client(loop);
  co_await client.connect(port, 3 << 16 | 1);
  const Json body = {{"prompt", prompt}, {"max_tokens", 1}, {"seed", 1}};
  const Answer answer = co_await client.ask(post_request("/v1/completions", body));
  ended = true;
  if (answer.status != 200) fail("the long prompt was answered {}: {}", answer.status, answer.body);
  seconds = answer.to_end;
}

// Of words that have not been read before.
std::vector<int32_t> new_prompt(const Tokenizer& tokenizer, int64_t tokens) {
  const Random random(static_cast<uint64_t>(Clock::now().time_since_epoch().count()), 1);
  std::string text;
  for (uint64_t i = 0; static_cast<int64_t>(text.size()) < 4 * tokens; ++i)
    text += i % 6 == 5 ? ' ' : static_cast<char>('a' + random.below(i, 26));
  std::vector<int32_t> prompt = tokenizer.encode(text);
  if (static_cast<int64_t>(prompt.size()) < tokens)
    fail("a prompt of {} tokens, fewer than {}", prompt.size(), tokens);
  prompt.resize(static_cast<size_t>(tokens));
  return prompt;
}

}  // namespace

void run_first_token(const LoadOptions& options, int64_t prompt_tokens) {
  const int port = static_cast<int>(options.port);
  const LoadedModel loaded = load_model_folder(options.model, cpu_backend());
  Load load;
  LoadClient client(load.loop());
  std::vector<double> without, with, steps;
  load.start([](LoadClient& one, int to, std::vector<double>& alone,
                std::vector<double>& each) -> asio::awaitable<void> {
    co_await one.connect(to, 3 << 16 | 2);
    std::vector<double> warm;
    co_await ask_shortly(one, 1'000'000, warm, nullptr);
    co_await ask_shortly(one, 2'000'000, alone, nullptr);
    co_await time_steps(one, each);
  }(client, port, without, steps));
  load.run();
  const std::vector<int32_t> prompt = new_prompt(*loaded.tokenizer, prompt_tokens);
  bool ended = false;
  double long_seconds = 0;
  load.start(read_long_prompt(load.loop(), port, prompt, long_seconds, ended));
  load.start([](LoadClient& one, std::vector<double>& beside, const bool& until) -> asio::awaitable<void> {
    co_await pause(0.02);  // the long prompt comes first
    co_await ask_shortly(one, 3'000'000, beside, &until);
  }(client, with, ended));
  load.run();
  const double step = quantile(steps, 0.5), before = quantile(without, 0.5), beside = quantile(with, 0.5);
  show(fmt::format("{}: time to the first token beside a prompt of {} tokens (read in {:.2f} s)",
                   description_of(*loaded.model), prompt_tokens, long_seconds),
       asked(options, "3 decode steps more"),
       fmt::format("{}, {} without: {:.1f} steps of {} more (medians of {} and {}; p99 {} and {})",
                   milliseconds(beside), milliseconds(before), (beside - before) / step, milliseconds(step),
                   with.size(), without.size(), milliseconds(quantile(with, 0.99)),
                   milliseconds(quantile(without, 0.99))),
       judge(options, beside - before <= 3 * step));
}

}  // namespace harmonic
