// /v1/score: how surprising a text is, whole or while it comes in.
#include <chrono>
#include <mutex>

#include "harmonic/model/inference.h"
#include "harmonic/runtime/line_scores.h"
#include "harmonic/runtime/stream_encoder.h"
#include "harmonic/server/api_error.h"
#include "harmonic/server/json_text.h"
#include "harmonic/server/state_fields.h"

namespace harmonic {
namespace {

struct Sum {
  double bits = 0;
  int64_t tokens = 0, bytes = 0;

  std::string fields() const {
    return fmt::format(R"("tokens":{},"bytes":{},"bits":{},"bits_per_byte":{})", tokens, bytes,
                       json_number(bits),
                       bytes > 0 ? json_number(bits / static_cast<double>(bytes)) : "null");
  }
};

struct ScoredToken {
  int32_t token;
  std::string_view bytes;
  double bits;
  std::string json() const {
    return fmt::format(R"({{"token":{},"text":{},"bits":{:.9g}}})", token, json_text(bytes), bits);
  }
};

// Adds a token to the sum. The end of a text counts as one byte, as in harmonic score.
ScoredToken add(const Service& service, const TokenReport& report, bool first, Sum& sum) {
  const bool ends = report.token == service.tokenizer.eot();
  const std::string_view bytes =
      first ? service.tokenizer.first_bytes_of(report.token) : service.tokenizer.bytes_of(report.token);
  const double bits = -report.logprob * kBitsPerNat;
  sum.bits += bits;
  ++sum.tokens;
  sum.bytes += ends ? 1 : static_cast<int64_t>(bytes.size());
  return {report.token, bytes, bits};
}

std::chrono::steady_clock::time_point deadline_of(const Service& service) {
  return std::chrono::steady_clock::now() + service.config.longest_request();
}

constexpr int64_t kBytesOfResult = 128;  // that a token's takes, about, twice while it is put together

enum class By { document, line, token };

class WholeScore : public GenerationListener, public std::enable_shared_from_this<WholeScore> {
 public:
  // `sent`: it goes on from a state that came with the request. `tokens`: how many will be scored.
  WholeScore(Service& service, Call call, By by, bool return_state, bool sent, bool first, size_t tokens)
      : service_(service),
        call_(std::move(call)),
        by_(by),
        return_state_(return_state),
        sent_(sent),
        memory_(service.answers.take(by == By::document ? 0 : static_cast<int64_t>(tokens) * kBytesOfResult)),
        first_(first) {}

  void on_scored(std::span<const TokenReport> tokens) override {
    for (const TokenReport& report : tokens) {
      const ScoredToken scored = add(service_, report, std::exchange(first_, false), sum_);
      if (by_ == By::token) add_result(scored.json());
      // The end of a text is of no line.
      if (by_ == By::line && report.token != service_.tokenizer.eot())
        lines_.add(scored.bytes, scored.bits, [this](const LineScore& line) { add_line(line); });
    }
  }
  void on_end(GenerationEnd end) override {
    service_.workers.post([self = shared_from_this(), ended = std::move(end)] { self->answer(ended); });
  }

 private:
  void add_result(const std::string& result) { results_ += (results_.empty() ? "" : ",") + result; }
  void add_line(const LineScore& line) {
    add_result(fmt::format(R"({{"line":{},"bytes":{},"bits":{:.9g}}})", line.line, line.bytes, line.bits));
  }

  void answer(const GenerationEnd& end) {
    lines_.finish([this](const LineScore& line) { add_line(line); });
    try {
      if (end.not_finite && sent_) throw invalid_state_error(true);
      if (end.finish == GenerationEnd::Finish::failed)
        throw ApiError{500, end.error, "", "scoring_failed", 0};
      if (end.finish == GenerationEnd::Finish::cancelled)
        throw cancelled_error(std::chrono::steady_clock::now() - begin_ >= service_.config.longest_request());
      service_.metrics.prompt_tokens += sum_.tokens;
      std::string body =
          fmt::format(R"({{"object":"score","model":{},{})", json_text(service_.model_name), sum_.fields());
      if (by_ != By::document) body += fmt::format(R"(,"results":[{}])", results_);
      if (return_state_) body += "," + state_token_field(service_, call_, end.point, sent_);
      call_.exchange->respond({200, "application/json", body + "}", {}});
    } catch (const ApiError& error) {
      call_.exchange->respond(response_of(error));
    }
  }

  Service& service_;
  const Call call_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  const By by_;
  const bool return_state_, sent_;
  const std::shared_ptr<void> memory_;  // that the answer may take
  bool first_;
  Sum sum_;
  LineScores lines_;
  std::string results_;
};

// A text that is scored while it comes in: a line of JSON a token, in constant memory. Pieces are read when
// those before are scored, so that a fast sender waits.
class ScoreStream : public std::enable_shared_from_this<ScoreStream> {
 public:
  ScoreStream(Service& service, Call call)
      : service_(service),
        call_(std::move(call)),
        encoder_(service.tokenizer),
        point_(beginning_of_text(service.model())) {}

  void start() {
    call_.exchange->when_gone([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->cancel();
    });
    call_.exchange->start_stream({200, "application/x-ndjson", {}, {{"Cache-Control", "no-cache"}}});
    next();
  }

 private:
  class Listener : public GenerationListener {
   public:
    explicit Listener(std::shared_ptr<ScoreStream> stream) : stream_(std::move(stream)) {}
    void on_scored(std::span<const TokenReport> tokens) override {
      for (const TokenReport& report : tokens)
        lines_ +=
            add(stream_->service_, report, std::exchange(stream_->first_, false), stream_->sum_).json() +
            "\n";
    }
    void on_end(GenerationEnd end) override {
      const auto stream = std::move(stream_);
      stream->service_.workers.post([stream, lines = std::move(lines_), ended = std::move(end)]() mutable {
        stream->scored(lines, std::move(ended));
      });
    }

   private:
    std::shared_ptr<ScoreStream> stream_;
    std::string lines_;
  };

  void cancel() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    ticket_.cancel();
  }

  void next() {
    call_.exchange->next_piece([self = shared_from_this()](std::string piece) {
      self->service_.workers.post([self, text = std::move(piece)] { self->take(text); });
    });
  }

  void take(const std::string& text) {
    tokens_.clear();
    if (text.empty()) {
      ended_ = true;
      encoder_.finish(tokens_);
      tokens_.push_back(service_.tokenizer.eot());
    } else {
      encoder_.push(text, tokens_);
    }
    if (tokens_.empty()) {
      next();
      return;
    }
    GenerationRequest request;
    request.from = std::move(point_);
    request.tokens = std::move(tokens_);
    request.score = true;
    request.alternatives = 0;
    request.client = call_.client();
    request.deadline = deadline_ = deadline_of(service_);
    try {
      const std::lock_guard lock(mutex_);
      ticket_ = service_.scheduler.submit(std::move(request), std::make_shared<Listener>(shared_from_this()));
      if (gone_) ticket_.cancel();
    } catch (const BatchScheduler::QueueFull&) {
      end(busy_error());
    } catch (const Error& error) {
      end(ApiError{400, error.what(), "", "invalid_request", 0});
    }
  }

  void scored(const std::string& lines, GenerationEnd ended) {
    if (ended.finish == GenerationEnd::Finish::failed)
      return end(ApiError{500, ended.error, "", "scoring_failed", 0});
    if (ended.finish == GenerationEnd::Finish::cancelled)
      return end(cancelled_error(std::chrono::steady_clock::now() >= deadline_));
    call_.exchange->send(lines);
    point_ = std::move(ended.point);
    if (!ended_) return next();
    service_.metrics.prompt_tokens += sum_.tokens;
    call_.exchange->send(fmt::format("{{\"object\":\"score\",{}}}\n", sum_.fields()));
    call_.exchange->end_stream();
  }

  void end(const ApiError& error) {
    call_.exchange->send(json_of(error) + "\n");
    call_.exchange->end_stream();
  }

  Service& service_;
  const Call call_;
  StreamEncoder encoder_;
  std::vector<int32_t> tokens_;
  TextPoint point_;
  std::chrono::steady_clock::time_point deadline_;  // of the piece at hand
  Sum sum_;
  bool first_ = true, ended_ = false;
  std::mutex mutex_;
  BatchScheduler::Ticket ticket_;
  bool gone_ = false;
};

}  // namespace

void route_score(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  const Json* text = fields.find("text");
  if (!text || !text->is_string()) fail_field("text", "text: expected the text to score");
  const std::string by = fields.text("by", "document");
  if (by != "document" && by != "line" && by != "token")
    fail_field("by", "by: expected document, line or token");
  const bool ends = fields.flag("end", true), return_state = fields.flag("return_state", false);
  const auto from = read_state_token(service, call, fields);
  fields.ignore("model");
  fields.done();
  if (return_state) check_state_tokens(service);
  if (return_state && ends)
    fail_field("return_state", "return_state: nothing goes on after the end of a text; set end to false");
  GenerationRequest request;
  request.from = from ? *from : beginning_of_text(service.model());
  const bool first = request.from.at_beginning();
  request.tokens = encode_text(service.tokenizer, text->get_ref<const std::string&>(), first);
  if (ends) request.tokens.push_back(service.tokenizer.eot());
  if (static_cast<int64_t>(request.tokens.size()) > service.config.max_prompt_tokens)
    fail_field("text", "a text of {} tokens; at most {} go in one request; /v1/score/stream takes any number",
               request.tokens.size(), service.config.max_prompt_tokens);
  request.score = true;
  request.alternatives = 0;
  request.deadline = deadline_of(service);
  request.client = call.client();
  const auto listener =
      std::make_shared<WholeScore>(service, call,
                                   by == "token"  ? By::token
                                   : by == "line" ? By::line
                                                  : By::document,
                                   return_state, from != nullptr, first, request.tokens.size());
  try {
    const auto ticket = service.scheduler.submit(std::move(request), listener);
    call.exchange->when_gone([ticket] { ticket.cancel(); });
  } catch (const BatchScheduler::QueueFull&) {
    throw busy_error();
  }
}

void route_score_stream(Service& service, const Call& call) {
  std::make_shared<ScoreStream>(service, call)->start();
}

}  // namespace harmonic
