// server: models over HTTP. The OpenAI routes, sessions, scoring, and a page to look at.
//
// HTTP/1.1 on one thread, that does nothing else: it reads requests, within limits and deadlines, gives whole
// ones to a handler, and writes what the handler's threads answer. It knows nothing of models.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace harmonic {

struct HttpOptions {
  std::string host = "127.0.0.1";  // an address, v4 or v6
  int64_t port = 8080;             // 0 takes one that is free
  std::string unix_socket;         // a path, in place of host and port
  int64_t max_connections = 16384;
  int64_t max_header_bytes = 16384;  // of a request's line and headers together
  int64_t max_headers = 100;
  int64_t max_body_bytes = 8 << 20;
  int64_t max_held_bytes = 512 << 20;  // of bodies and whole answers of all connections; beyond that 503
  int64_t max_unsent_bytes = 4 << 20;  // of a stream: a reader that falls so far behind is dropped
  // Deadlines count from the beginning of what they bound, and do not move when a byte comes.
  double idle_seconds = 75;    // between requests
  double header_seconds = 10;  // for a request's head
  double body_seconds = 60;    // for its body; by so much an upload that is read in pieces may fall behind
                               // 1 KB for each second in which it is waited for
  double write_seconds = 30;   // for an answer, or each piece of a stream, to be taken; longer only for
                               // what is large, and while some of it is taken
  double keep_alive_seconds = 15;  // a stream of events that is silent so long says that it lives
  // Pieces of a stream that come within so long after another leave with the next one: fewer writes, and
  // less work at the other end. The first leaves at once, and the end. 0: each as it comes.
  double gather_seconds = 0;
};

struct HttpRequest {
  std::string method, path, query;                           // the path as it was sent
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  std::string client;  // the address, without a port; "unix" for a socket file
  int minor_version = 1;

  // Of the first header of that name; empty when there is none.
  std::string_view header(std::string_view name) const;
  int64_t count(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // never text of a client's
};

// One request and its answer. Every member may be called from any thread; what comes after an answer's end,
// or after the client has gone, is dropped.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;

  // The whole answer,
  virtual void respond(HttpResponse response) = 0;
  // or a stream: its head (the body is ignored), pieces, and the end.
  virtual void start_stream(HttpResponse head) = 0;
  virtual void send(std::string_view piece) = 0;
  virtual void end_stream() = 0;

  // Calls `gone` on the loop's thread when the client goes away before the answer's end; at once, when it
  // has. One at a time: another replaces it.
  virtual void when_gone(std::function<void()> gone) = 0;
  // Of an upload that is taken in pieces: asks for the next one. `take` gets it on the loop's thread, or
  // nothing at the body's end. Ask again only when it came. A body that breaks off ends in when_gone().
  virtual void next_piece(std::function<void(std::string piece)> take) = 0;
  // Of a stream: calls `taken` on the loop's thread when its reader has taken all but a little of what was
  // sent. One at a time; dropped when the client goes away.
  virtual void when_taken(std::function<void()> taken) = 0;
  // Lets go of it when the answer has left, or the client has gone.
  virtual void keep(std::shared_ptr<void> what) = 0;
};

// What a server does with requests. All are called on the loop's thread, and must be quick.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Whether a request is to be answered before its body is read: by this. Nobody's body takes memory who may
  // not ask.
  virtual std::optional<HttpResponse> refuses(const HttpRequest& head) = 0;
  // A whole request, or, where takes_pieces() said so, one whose body is read by next_piece().
  virtual void handle(std::shared_ptr<HttpExchange> exchange) = 0;
  virtual bool takes_pieces(const HttpRequest& head) = 0;
  // An answer for a request that the server itself refuses.
  virtual HttpResponse refusal(int status, std::string_view why) = 0;
  // An answer has ended, or its client has gone (status 499).
  virtual void ended(const HttpRequest& request, int status, int64_t bytes, double seconds) = 0;
};

class HttpServer {
 public:
  // Listens at once; answers while run() runs. Throws Error when the address cannot be had. A socket file
  // that nobody listens on is replaced.
  HttpServer(const HttpOptions& options, HttpHandler& handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;  // 0 for a socket file
  // Until stop(), or until drain() is done. With `signals`, SIGTERM and SIGINT call `asked`, on the loop's
  // thread; a second one ends the program.
  void run(bool signals = false, std::function<void()> asked = {});

  // From any thread. No more connections; those without a request at work are closed, the others when their
  // answer has ended, at the latest after so many seconds.
  void drain(double seconds);
  void stop();
  // Calls it on the loop's thread; in so many seconds, where drain() has not begun by then.
  void post(std::function<void()> work);
  void post_later(double seconds, std::function<void()> work);
  int64_t connections() const;

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace harmonic
