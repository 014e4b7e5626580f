#include "harmonic/server/token_text.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "harmonic/base/utf8.h"
#include "harmonic/server/json_text.h"

namespace harmonic {
namespace {

int64_t characters_of(std::string_view bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

// The likeliest and, where it is not among them, the token itself; none twice by name.
std::string top_of(const Service& service, const TokenReport& report) {
  std::string out = "{";
  std::set<std::string> names;
  const auto add = [&](int32_t token, double logprob) {
    const std::string name = json_text(token_name(service, token));
    if (!names.insert(name).second) return;
    out += fmt::format("{}{}:{}", out.size() > 1 ? "," : "", name, json_number(logprob));
  };
  for (const TokenLogProbability& one : report.likeliest) add(one.token, one.logprob);
  add(report.token, report.logprob);
  return out + "}";
}

std::string chat_entry(const Service& service, int32_t token, double logprob) {
  const std::string_view bytes = service.tokenizer.bytes_of(token);
  const auto* begin = reinterpret_cast<const unsigned char*>(bytes.data());
  return fmt::format(R"("token":{},"logprob":{},"bytes":[{}])", json_text(token_name(service, token)),
                     json_number(logprob), fmt::join(begin, begin + bytes.size(), ","));
}

}  // namespace

std::string token_name(const Service& service, int32_t token) {
  if (token == service.tokenizer.eot()) return service.end_of_text;
  if (token == service.tokenizer.bos()) return service.begin_of_text;
  const std::string_view bytes = service.tokenizer.bytes_of(token);
  if (is_utf8(bytes)) return std::string(bytes);
  std::string name = "bytes:";
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  return name;
}

std::string completion_logprobs(const Service& service, std::span<const TokenReport> tokens,
                                bool first_is_unknown, bool ids, TextOffset& offset) {
  std::string names, logprobs, tops, offsets, numbers, activity;
  bool active = false;
  for (const TokenReport& report : tokens) {
    const char* comma = names.empty() ? "" : ",";
    const bool unknown = first_is_unknown && &report == tokens.data();
    names += comma + json_text(token_name(service, report.token));
    logprobs += comma + (unknown ? "null" : json_number(report.logprob));
    tops += comma + (unknown ? "null" : top_of(service, report));
    offsets += fmt::format("{}{}", comma, offset.characters);
    if (ids) numbers += fmt::format("{}{}", comma, report.token);
    offset.characters += characters_of(offset.first ? service.tokenizer.first_bytes_of(report.token)
                                                    : service.tokenizer.bytes_of(report.token));
    offset.first = report.token == service.tokenizer.bos() || report.token == service.tokenizer.eot();
    // Where another document is written then, an empty line parts the two.
    if (offset.first && report.text.ends_with("\n\n")) offset.characters += 2;
    activity += comma + (report.activity.empty() ? "null" : "\"" + report.activity + "\"");
    active |= !report.activity.empty();
  }
  if (ids) numbers = fmt::format(R"(,"token_ids":[{}])", numbers);
  if (active) numbers += fmt::format(R"(,"activity":[{}])", activity);
  return fmt::format(R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]{}}})",
                     names, logprobs, tops, offsets, numbers);
}

std::string chat_logprobs(const Service& service, std::span<const TokenReport> tokens) {
  std::string content;
  for (const TokenReport& report : tokens) {
    std::string top;
    for (const TokenLogProbability& one : report.likeliest)
      top += fmt::format("{}{{{}}}", top.empty() ? "" : ",", chat_entry(service, one.token, one.logprob));
    content += fmt::format("{}{{{},\"top_logprobs\":[{}]}}", content.empty() ? "" : ",",
                           chat_entry(service, report.token, report.logprob), top);
  }
  return fmt::format(R"({{"content":[{}],"refusal":null}})", content);
}

}  // namespace harmonic
