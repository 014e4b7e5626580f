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

// Counts as its client's, `counted` being held, until the answer has left or the client has gone, and as long
// as somebody works for it. `headers` are added to its answer.
class CountedExchange : public HttpExchange {
 public:
  CountedExchange(std::shared_ptr<HttpExchange> exchange,
                  std::vector<std::pair<std::string, std::string>> headers, std::shared_ptr<void> counted)
      : exchange_(std::move(exchange)), headers_(std::move(headers)), counted_(std::move(counted)) {
    exchange_->keep(counted_);
  }
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
  void when_taken(std::function<void()> taken) override { exchange_->when_taken(std::move(taken)); }
  void keep(std::shared_ptr<void> what) override { exchange_->keep(std::move(what)); }

 private:
  // The work is done, whoever still holds this: who has the answer may ask again.
  void end() {
    if (!over_.exchange(true)) counted_ = nullptr;
  }
  HttpResponse complete(HttpResponse response) const {
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    return response;
  }
  const std::shared_ptr<HttpExchange> exchange_;
  const std::vector<std::pair<std::string, std::string>> headers_;
  std::shared_ptr<void> counted_;
  std::atomic<bool> over_{false};
};

}  // namespace harmonic
