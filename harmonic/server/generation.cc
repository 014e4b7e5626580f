#include "harmonic/server/generation.h"

#include <atomic>
#include <bit>
#include <chrono>
#include <mutex>

#include "harmonic/server/api_error.h"
#include "harmonic/server/generation_answer.h"
#include "harmonic/server/state_fields.h"

namespace harmonic {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBoundary = 256;       // tokens between the states of a prompt that are kept
constexpr int64_t kMostBoundaries = 64;  // of one prompt
constexpr int64_t kFewestKept = 64;
constexpr size_t kEchoedBytes = 32 << 10;  // of a prompt in an event
constexpr size_t kEchoedScores = 2048;     // log-probabilities in one

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

// Part i of n of a text, cut between characters.
std::string_view part_of(std::string_view text, size_t i, size_t n) {
  const auto edge = [&](size_t k) {
    size_t at = text.size() * k / n;
    while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) ++at;
    return at;
  };
  return text.substr(edge(i), edge(i + 1) - edge(i));
}

// Lives until every text has ended and the answer is on its way. What the scheduler reports comes on its one
// thread, and so do all changes of `choices_` after the start.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(Service& service, const Call& call, GenerationPlan plan)
      : service_(service),
        call_(call),
        plan_(std::move(plan)),
        memory_(service.answers.take(answer_bytes(plan_))),
        answer_(service, plan_) {
    choices_.resize(plan_.prompts.size() * static_cast<size_t>(plan_.choices));
    remaining_ = static_cast<int64_t>(choices_.size());
    for (size_t i = 0; i < choices_.size(); ++i)
      choices_[i].offset.first = plan_.begins_document() && (plan_.echo || prompt_of(i).tokens.empty());
  }

  void start() {
    for (size_t p = 0; p < plan_.prompts.size(); ++p) {
      try {
        submit_prompt(p);
      } catch (const BatchScheduler::QueueFull&) {
        refuse_prompt(p, busy_error());
      } catch (const Error& error) {
        refuse_prompt(p, {400, error.what(), "prompt", "invalid_prompt", 0});
      }
    }
    // The exchange holds this until it ends, and this holds the exchange: neither may keep the other.
    call_.exchange->when_gone([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->cancel();
    });
    if (plan_.stream) begin_stream();
  }

 private:
  struct Choice {
    std::vector<TokenReport> tokens;  // written; kept only where the answer needs them
    std::string text;
    int64_t written = 0;
    TextOffset offset;
    GenerationEnd end;
    int error_status = 500;
    std::shared_ptr<const std::vector<TokenReport>> scored;  // of the prompt
    std::vector<int32_t> all;                                // of the prompt and written, for the cache
    Clock::time_point last{};
  };

  // One text of the answer; or, where several go on from one prompt, the prompt (choice: the first of them).
  class Listener : public GenerationListener {
   public:
    Listener(std::shared_ptr<Generation> generation, size_t choice, bool prompt_only)
        : generation_(std::move(generation)), choice_(choice), prompt_only_(prompt_only) {}

    void on_start() override {
      if (!started_before_) generation_->service_.metrics.queue_wait.add(seconds_since(submitted_));
      started_before_ = true;
    }
    void on_scored(std::span<const TokenReport> tokens) override {
      scored_.insert(scored_.end(), tokens.begin(), tokens.end());
    }
    void on_boundary(int64_t tokens, const LazyPoint& at) override {
      generation_->remember(choice_, skipped + tokens, at);
    }
    void on_token(const TokenReport& token) override {
      hand_over_scores();
      generation_->take_token(choice_, token);
    }
    void on_end(GenerationEnd end) override {
      hand_over_scores();
      if (prompt_only_ && end.finish == GenerationEnd::Finish::length) {
        generation_->go_on_from_prompt(choice_, std::move(end));
      } else {
        generation_->take_end(choice_, prompt_only_ ? generation_->plan_.choices : 1, std::move(end));
      }
      generation_.reset();
    }
    int64_t skipped = 0;  // tokens of the prompt whose state was known

   private:
    void hand_over_scores() {
      if (handed_over_) return;
      handed_over_ = true;
      generation_->take_scores(choice_, prompt_only_ ? generation_->plan_.choices : 1, std::move(scored_));
    }

    std::shared_ptr<Generation> generation_;
    const size_t choice_;
    const bool prompt_only_;
    bool handed_over_ = false, started_before_ = false;
    const Clock::time_point submitted_ = Clock::now();
    std::vector<TokenReport> scored_;
  };

  bool chat() const { return plan_.form == GenerationPlan::Form::chat; }
  const Prompt& prompt_of(size_t choice) const {
    return plan_.prompts[choice / static_cast<size_t>(plan_.choices)];
  }
  // Of an echo's first token.
  bool first_is_unknown(size_t choice) const { return !plan_.from || prompt_of(choice).with_leading; }
  bool scoring() const { return plan_.echo && plan_.alternatives >= 0; }
  // A reader has the prompt before its texts begin.
  bool echoes_first() const { return plan_.echo && plan_.stream; }
  // States so large that the cache would hold but a few are not worth their copying.
  bool caching() const {
    return !plan_.from &&
           service_.model().state_layout().bytes() <= (service_.config.cache_mb << 20) / kFewestKept;
  }

  // --- to the scheduler ---

  void submit_prompt(size_t p) {
    const Prompt& prompt = plan_.prompts[p];
    const size_t choice = p * static_cast<size_t>(plan_.choices);
    const bool prompt_only = plan_.choices > 1 || echoes_first();
    const auto listener = std::make_shared<Listener>(shared_from_this(), choice, prompt_only);
    GenerationRequest request;
    request.score = scoring();
    prompt_tokens_ += static_cast<int64_t>(prompt.tokens.size()) + prompt.with_leading;
    if (caching()) {
      const auto hit = scoring() ? std::nullopt : service_.cache.find(call_.owner, prompt.tokens);
      ++(hit ? service_.metrics.cache_hits : service_.metrics.cache_misses);
      if (hit) {
        request.from = *hit->point;
        listener->skipped = hit->tokens;
        cached_tokens_ += hit->tokens;
      }
      choices_[choice].all = prompt.tokens;
    }
    const auto size = static_cast<int64_t>(prompt.tokens.size());
    request.boundary_every = std::max(
        kBoundary, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(size / kMostBoundaries + 1))));
    if (listener->skipped == 0) request.from = plan_.from ? *plan_.from : beginning_of_text(service_.model());
    request.tokens.assign(prompt.tokens.begin() + listener->skipped, prompt.tokens.end());
    if (!prompt_only) set_writing(plan_, 0, request);
    request.alternatives = plan_.alternatives;
    submit(std::move(request), listener);
  }

  void submit(GenerationRequest request, std::shared_ptr<Listener> listener) {
    request.deadline = deadline_;
    request.client = call_.client();
    const BatchScheduler::Ticket ticket = service_.scheduler.submit(std::move(request), std::move(listener));
    const std::lock_guard lock(mutex_);
    tickets_.push_back(ticket);
    if (cancelled_) ticket.cancel();
  }

  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (const BatchScheduler::Ticket& ticket : tickets_) ticket.cancel();
  }

  // Of the first one the caller says so; those before another are at work by now, and the answer is theirs
  // too.
  void refuse_prompt(size_t p, ApiError error) {
    if (p == 0) throw error;
    const size_t first = p * static_cast<size_t>(plan_.choices);
    GenerationEnd failed;
    failed.finish = GenerationEnd::Finish::failed;
    failed.error = error.message;
    choices_[first].error_status = error.status;
    take_end(first, plan_.choices, std::move(failed));
  }

  // How far an echo has come: the choice at hand, and the part of its prompt that is next.
  struct Echo {
    size_t first;
    GenerationEnd end;
    size_t choice = 0, part = 0;
  };

  void go_on_from_prompt(size_t first, GenerationEnd end) {
    if (!echoes_first()) return fork(first, std::move(end));
    send_echo_soon(std::make_shared<Echo>(Echo{first, std::move(end)}));
  }

  // Off the scheduler's thread: all others wait for that.
  void send_echo_soon(std::shared_ptr<Echo> echo) {
    service_.workers.post([self = shared_from_this(), echo = std::move(echo)] { self->send_echo(echo); });
  }

  // A part of the prompt with its scores, and the next one when the reader has taken it; then the texts
  // begin. On a worker's thread.
  void send_echo(const std::shared_ptr<Echo>& echo) {
    const size_t i = echo->first + echo->choice;
    const std::string& text = prompt_of(i).text;
    const std::span<const TokenReport> scored(*choices_[i].scored);
    const size_t at_once = std::max<size_t>(1, kEchoedScores / static_cast<size_t>(plan_.alternatives + 2));
    const size_t parts = 1 + std::max(text.size() / kEchoedBytes, scored.size() / at_once);
    const size_t begin = std::min(scored.size(), echo->part * at_once);
    const std::string logprobs =
        !scoring() ? "null"
                   : answer_.logprobs(scored.subspan(begin, std::min(at_once, scored.size() - begin)),
                                      begin == 0 && first_is_unknown(i), choices_[i].offset);
    begin_stream();
    std::string event;
    answer_.append_event(event, i, part_of(text, echo->part, parts), logprobs, "null");
    call_.exchange->send(event);
    if (++echo->part == parts) echo->part = 0, ++echo->choice;
    if (echo->choice == static_cast<size_t>(plan_.choices)) return fork(echo->first, std::move(echo->end));
    call_.exchange->when_taken([self = shared_from_this(), echo] { self->send_echo_soon(echo); });
  }

  // The prompt has been read: its texts begin.
  void fork(size_t first, GenerationEnd end) {
    for (size_t i = 0; i < static_cast<size_t>(plan_.choices); ++i) {
      GenerationRequest request;
      request.from = end.point;
      set_writing(plan_, static_cast<int64_t>(i), request);
      if (i > 0) choices_[first + i].all = choices_[first].all;
      try {
        submit(std::move(request), std::make_shared<Listener>(shared_from_this(), first + i, false));
      } catch (const BatchScheduler::QueueFull&) {
        GenerationEnd failed;
        failed.finish = GenerationEnd::Finish::failed;
        failed.error = busy_error().message;
        choices_[first + i].error_status = busy_error().status;
        take_end(first + i, 1, std::move(failed));
      }
    }
  }

  // --- from the scheduler, on its thread ---

  void take_scores(size_t first, int64_t count, std::vector<TokenReport> scored) {
    // A text that goes on from a prompt has that one's already.
    if ((scored.empty() && !plan_.echo) || choices_[first].scored) return;
    const auto shared =
        std::make_shared<const std::vector<TokenReport>>(with_leading(first, std::move(scored)));
    for (size_t i = first; i < first + static_cast<size_t>(count); ++i) choices_[i].scored = shared;
  }

  // The client's own leading token stands in its list of tokens too.
  std::vector<TokenReport> with_leading(size_t choice, std::vector<TokenReport> scored) const {
    if (!prompt_of(choice).with_leading || !scoring()) return scored;
    TokenReport leading;
    leading.token = service_.tokenizer.bos();
    scored.insert(scored.begin(), std::move(leading));
    return scored;
  }

  void remember(size_t choice, int64_t tokens, const GenerationListener::LazyPoint& at) {
    const std::vector<int32_t>& all = choices_[choice].all;
    if (caching())
      service_.cache.insert(call_.owner, std::span(all).first(static_cast<size_t>(tokens)), at.point());
  }

  void take_token(size_t i, const TokenReport& token) {
    Choice& choice = choices_[i];
    if (choice.written++ == 0 && !std::exchange(seen_token_, true)) {
      service_.metrics.time_to_first_token.add(seconds_since(begin_));
    } else if (choice.written > 1) {
      service_.metrics.between_tokens.add(seconds_since(choice.last));
    }
    choice.last = Clock::now();
    if (caching() && token.token != service_.tokenizer.eot()) choice.all.push_back(token.token);
    if (!plan_.stream) {
      choice.text += token.text;
      if (plan_.alternatives >= 0) choice.tokens.push_back(token);
    } else if (!token.text.empty() || plan_.alternatives >= 0) {
      send_event(i, token.text, answer_.logprobs({&token, 1}, false, choice.offset), "null");
    }
  }

  void take_end(size_t first, int64_t count, GenerationEnd end) {
    // A text that took too long is cut; a prompt is not.
    if (end.finish == GenerationEnd::Finish::cancelled && Clock::now() >= deadline_) {
      late_ = true;
      if (choices_[first].written > 0) end.finish = GenerationEnd::Finish::length;
    }
    for (size_t i = first; i < first + static_cast<size_t>(count); ++i) {
      Choice& choice = choices_[i];
      choice.end = end;
      choice.text += end.text;
      // Where the text ends within a character and nobody can go on from there, it is shown as one that is
      // cut; behind a stop string nothing is shown.
      if (!plan_.ended && !end.point.unfinished.empty() && end.finish != GenerationEnd::Finish::stop &&
          end.finish != GenerationEnd::Finish::failed)
        choice.end.text += "\xEF\xBF\xBD", choice.text += "\xEF\xBF\xBD";
      service_.metrics.written_tokens += choice.written;
      written_tokens_ += choice.written;
      keep_end(choice);
      if (plan_.stream && end.finish != GenerationEnd::Finish::failed &&
          end.finish != GenerationEnd::Finish::cancelled)
        send_event(i, choice.end.text, "null", finish_of(choice.end));
    }
    if (remaining_.fetch_sub(count) == count)
      service_.workers.post([self = shared_from_this()] { self->answer(); });
  }

  // What was written may be what the next prompt begins with.
  void keep_end(const Choice& choice) {
    if (!caching() || choice.written == 0 || choice.end.point.earlier > 0 ||
        choice.end.point.state.bytes() == 0 ||
        choice.all.size() != static_cast<size_t>(choice.end.point.state.position()))
      return;
    service_.cache.insert(call_.owner, choice.all, choice.end.point);
  }

  // --- the answer ---

  static const char* finish_of(const GenerationEnd& end) {
    return end.finish == GenerationEnd::Finish::stop ? "\"stop\"" : "\"length\"";
  }

  void begin_stream() {
    std::call_once(begun_, [this] {
      call_.exchange->start_stream(
          {200, "text/event-stream; charset=utf-8", {}, {{"Cache-Control", "no-cache"}}});
      for (size_t i = 0; chat() && i < choices_.size(); ++i) event_ += answer_.opening_event(i);
    });
  }
  void send_event(size_t choice, std::string_view text, std::string_view logprobs, std::string_view finish) {
    begin_stream();
    answer_.append_event(event_, choice, text, logprobs, finish);
    call_.exchange->send(event_);
    event_.clear();
  }

  // Every text has ended. On a worker's thread.
  void answer() {
    service_.metrics.prompt_tokens += prompt_tokens_;
    service_.metrics.cached_tokens += cached_tokens_;
    std::string more;
    std::vector<TextPoint> points;
    std::optional<ApiError> error = error_of_choices();
    for (Choice& choice : choices_)
      if (!error) points.push_back(std::move(choice.end.point));
    try {
      if (plan_.ended && !error) more = plan_.ended(std::move(points));
    } catch (const ApiError& other) {
      error = other;
    } catch (const std::exception& other) {
      error = internal_error(other.what());
    }
    // What it holds, a session, is let go of before the client can ask again.
    plan_.ended = nullptr;
    if (plan_.stream) {
      end_stream(more, error);
    } else {
      call_.exchange->respond(error ? response_of(*error)
                                    : HttpResponse{200, "application/json", whole(more), {}});
    }
  }

  std::optional<ApiError> error_of_choices() const {
    for (const Choice& choice : choices_) {
      // The model does well with texts that it has read from their beginning, as chats are.
      if (choice.end.not_finite && plan_.from && !chat()) return invalid_state_error(plan_.from_was_sent);
      if (choice.end.finish == GenerationEnd::Finish::failed)
        return ApiError{choice.error_status, choice.end.error, "", "generation_failed",
                        choice.error_status == 503 ? 1 : 0};
      if (choice.end.finish == GenerationEnd::Finish::cancelled) return cancelled_error(late_);
    }
    return {};
  }

  void end_stream(const std::string& more, const std::optional<ApiError>& error) {
    begin_stream();
    call_.exchange->send(event_);
    if (error) {
      call_.exchange->send(fmt::format("data: {}\n\n", json_of(*error)));
    } else if (plan_.include_usage || !more.empty()) {
      call_.exchange->send(answer_.last_event(closing_fields(more)));
    }
    call_.exchange->send("data: [DONE]\n\n");
    call_.exchange->end_stream();
  }

  std::string closing_fields(const std::string& more) const {
    return GenerationAnswer::Usage{prompt_tokens_, written_tokens_, cached_tokens_}.field() +
           (more.empty() ? "" : "," + more);
  }

  std::string whole(const std::string& more) {
    std::string texts;
    for (size_t i = 0; i < choices_.size(); ++i) {
      Choice& choice = choices_[i];
      if (i > 0) texts += ',';
      std::vector<TokenReport> reports = std::move(choice.tokens);
      const bool scored = scoring() && choice.scored && !choice.scored->empty();
      if (scored) reports.insert(reports.begin(), choice.scored->begin(), choice.scored->end());
      const std::string logprobs = answer_.logprobs(reports, scored && first_is_unknown(i), choice.offset);
      texts += answer_.whole(i, plan_.echo ? prompt_of(i).text + choice.text : choice.text, logprobs,
                             finish_of(choice.end));
    }
    return answer_.body(texts, closing_fields(more));
  }

  Service& service_;
  const Call call_;
  GenerationPlan plan_;
  const Clock::time_point begin_ = Clock::now(), deadline_ = begin_ + service_.config.longest_request();
  const std::shared_ptr<void> memory_;  // that the answer may take
  const GenerationAnswer answer_;
  std::vector<Choice> choices_;
  std::string event_;  // that is being made, on the scheduler's thread; at first, what opens a stream
  std::atomic<int64_t> remaining_{0}, prompt_tokens_{0}, cached_tokens_{0}, written_tokens_{0};
  bool seen_token_ = false;
  std::atomic<bool> late_{false};
  std::once_flag begun_;
  std::mutex mutex_;
  std::vector<BatchScheduler::Ticket> tickets_;
  bool cancelled_ = false;
};

}  // namespace

void generate(Service& service, const Call& call, GenerationPlan plan) {
  check_sizes(service, plan);
  std::make_shared<Generation>(service, call, std::move(plan))->start();
}

}  // namespace harmonic
