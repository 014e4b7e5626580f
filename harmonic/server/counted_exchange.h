// An exchange on behalf of a client whose requests at work are counted.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harmonic/server/http_server.h"

namespace harmonic {

// Counts as its client's until it is answered, or nobody holds it any more; `ended` is called then, once.
// `headers` are added to its answer.
class CountedExchange : public HttpExchange {
 public:
  CountedExchange(std::shared_ptr<HttpExchange> exchange,
                  std::vector<std::pair<std::string, std::string>> headers, std::function<void()> ended)
      : exchange_(std::move(exchange)), headers_(std::move(headers)), ended_(std::move(ended)) {}
  ~CountedExchange() override { end(); }
  const HttpRequest& request() const override { return exchange_->request(); }
  void respond(HttpResponse response) override {
    end();
    exchange_->respond(complete(std::move(response)));
  }
  void start_stream(HttpResponse head) override { exchange_->start_stream(complete(std::move(head))); }
  void send(std::string_view piece) override { exchange_->send(piece); }
  void end_stream() override {
    end();
    exchange_->end_stream();
  }
  void when_gone(std::function<void()> gone) override { exchange_->when_gone(std::move(gone)); }
  void next_piece(std::function<void(std::string)> take) override { exchange_->next_piece(std::move(take)); }

 private:
  // Before the answer leaves: who has it may ask again.
  void end() {
    if (!over_.exchange(true)) ended_();
  }
  HttpResponse complete(HttpResponse response) const {
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    return response;
  }
  const std::shared_ptr<HttpExchange> exchange_;
  const std::vector<std::pair<std::string, std::string>> headers_;
  const std::function<void()> ended_;
  std::atomic<bool> over_{false};
};

}  // namespace harmonic
