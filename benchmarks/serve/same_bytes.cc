// The same answers, to the byte: alone, among others, after a restart, on another server.
#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/load_client.h"
#include "benchmarks/serve/parts.h"
#include "harmonic/base/files.h"
#include "harmonic/base/random.h"

#include <filesystem>

namespace harmonic {

namespace asio = boost::asio;

namespace {

constexpr int64_t kAtOnce = 16;

// A request by its number, which is a half of its text and the rest: prompts of all lengths, every sampler.
struct Numbered {
  std::string first, second;
  Json rest;
};

Numbered request_of(int64_t number) {
  const Random random(7, static_cast<uint64_t>(number));
  const auto text = [&](uint64_t begin, uint64_t most) {
    std::string letters;
    for (uint64_t i = 0; i < 1 + random.bits(begin) % most; ++i)
      letters += static_cast<char>(' ' + random.bits(begin + 1 + i) % 95);
    return letters;
  };
  Numbered made{text(0, 40), text(1000, 200), {}};
  made.rest = {{"max_tokens", 8 + number % 9},
               {"seed", number},
               {"logprobs", 3},
               {"temperature", number % 4 == 0 ? 0.0 : 0.9},
               {"top_p", number % 3 == 0 ? 0.8 : 1.0},
               {"ignore_end", true}};
  return made;
}

Json with(Json fields, const Json& more) {
  fields.update(more);
  return fields;
}

// What an answer says, without its id and time.
std::string choices_of(const Answer& answer) {
  if (answer.status != 200) fail("a request was answered {}: {}", answer.status, answer.body);
  const size_t begin = answer.body.find("\"choices\":"), end = answer.body.find(",\"usage\":");
  if (begin == answer.body.npos || end == answer.body.npos)
    fail("an answer without choices: {}", answer.body);
  return answer.body.substr(begin, end - begin);
}

asio::awaitable<void> ask_some(asio::io_context& loop, const LoadOptions& options, const SameOptions& same,
                               int64_t first, int64_t every, std::vector<std::string>& digests,
                               int64_t& at_work) {
  LoadClient client(loop), other(loop);
  co_await client.connect(static_cast<int>(options.port), static_cast<uint32_t>(4 << 16 | (first + 1)));
  if (same.first_port > 0)
    co_await other.connect(static_cast<int>(same.first_port), static_cast<uint32_t>(4 << 16 | (first + 1)));
  for (int64_t i = first; i < same.requests; i += every) {
    const Numbered numbered = request_of(i);
    Json body = with({{"prompt", numbered.first + numbered.second}}, numbered.rest);
    if (same.first_port > 0) {
      body = {{"prompt", numbered.first}, {"max_tokens", 0}, {"return_state", true}};
      const Answer half = co_await other.ask(post_request("/v1/completions", body));
      if (half.status != 200) fail("no state token: {}", half.body);
      body = with({{"prompt", numbered.second}, {"state", parse_json(half.body, "an answer").at("state")}},
                  numbered.rest);
    }
    const Answer answer = co_await client.ask(post_request("/v1/completions", body));
    digests[static_cast<size_t>(i)] = sha256(choices_of(answer));
  }
  --at_work;
}

asio::awaitable<void> be_another(asio::io_context& loop, int port, int64_t number, const int64_t& at_work) {
  LoadClient client(loop);
  co_await client.connect(port, static_cast<uint32_t>(5 << 16 | (number + 1)));
  for (int64_t i = 0; at_work > 0; ++i) {
    const Json body = {{"prompt", fmt::format("another {} {}", number, i)},
                       {"max_tokens", 50},
                       {"stream", true},
                       {"ignore_end", true}};
    co_await client.ask(post_request("/v1/completions", body), [](std::string_view) {});
  }
}

}  // namespace

void run_same(const LoadOptions& options, const SameOptions& same) {
  std::vector<std::string> digests(static_cast<size_t>(same.requests));
  Load load;
  int64_t at_work = same.others > 0 ? kAtOnce : 1;
  const int64_t every = at_work;
  for (int64_t i = 0; i < every; ++i)
    load.start(ask_some(load.loop(), options, same, i, every, digests, at_work));
  for (int64_t i = 0; i < same.others; ++i)
    load.start(be_another(load.loop(), static_cast<int>(options.port), i, at_work));
  load.run();
  std::string lines;
  for (const std::string& digest : digests) lines += digest + "\n";
  if (!std::filesystem::exists(same.file)) {
    write_file(same.file, lines);
    return;
  }
  const std::string before = read_file(same.file);
  int64_t different = 0;
  for (size_t at = 0; at < std::max(lines.size(), before.size()); at += 65)
    different +=
        lines.substr(std::min(at, lines.size()), 65) != before.substr(std::min(at, before.size()), 65);
  show(fmt::format("{} requests {}: answers that differ from those alone", same.requests, same.what), "0",
       fmt::format("{}", different), verdict(different == 0));
  if (different > 0) fail("{} of {} answers differ", different, same.requests);
}

}  // namespace harmonic
