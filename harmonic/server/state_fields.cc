#include "harmonic/server/state_fields.h"

#include "harmonic/base/log.h"

namespace harmonic {

void check_state_tokens(const Service& service) {
  if (!service.seal)
    throw ApiError{400, "this server gives out no state tokens (--keyring FILE)", "state", "no_state_tokens",
                   0};
  const int64_t bytes = service.model().state_layout().bytes();
  if (bytes > service.config.max_state_token_bytes)
    throw ApiError{400,
                   fmt::format("a state of this model has {} bytes; tokens are made of at most {}", bytes,
                               service.config.max_state_token_bytes),
                   "state", "state_too_large", 0};
}

std::shared_ptr<const TextPoint> read_state_token(Service& service, const Call& call, JsonFields& fields) {
  const std::string token = fields.text("state");
  if (token.empty()) return nullptr;
  check_state_tokens(service);
  try {
    return std::make_shared<const TextPoint>(service.seal->open(token, call.owner, unix_seconds()));
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "state", "invalid_state", 0};
  }
}

std::string state_token_field(const Service& service, const Call& call, const TextPoint& point, bool sent) {
  check_state_tokens(service);
  check_point(service, point, sent);
  const auto seconds = static_cast<int64_t>(service.config.token_hours * 3600);
  return fmt::format(R"("state":"{}")", service.seal->seal(point, call.owner, unix_seconds() + seconds));
}

std::vector<int32_t> encode_text(const Tokenizer& tokenizer, std::string_view text, bool first) {
  std::vector<int32_t> tokens;
  first ? tokenizer.encode(text, tokens) : tokenizer.encode_continuation(text, tokens);
  return tokens;
}

ApiError invalid_state_error(bool sent) {
  if (sent)
    return {400, "state: no text can go on from it: its numbers do not stay finite", "state", "invalid_state",
            0};
  return {409, "the numbers of the text's state do not stay finite: no text can go on from there", "",
          "invalid_state", 0};
}

void check_point(const Service& service, const TextPoint& point, bool sent) {
  try {
    check_state(service.model(), point.state, "the text");
  } catch (const Error&) {
    throw invalid_state_error(sent);
  }
}

void fail_no_session() { throw ApiError{404, "there is no such session", "", "session_not_found", 0}; }
void fail_session_in_use() {
  throw ApiError{409, "another request goes on with this session", "", "session_in_use", 1};
}
void fail_too_many_sessions(const Sessions::TooMany& limit) {
  if (limit.of_owner)
    throw ApiError{
        429,
        fmt::format("an API key may have {} sessions here, and this one would have more; delete some",
                    limit.most),
        "", "too_many_sessions", 60};
  throw ApiError{
      503, fmt::format("{} sessions may be kept here, and there would be more; delete some", limit.most), "",
      "too_many_sessions", 60};
}
void fail_store(const Error& error) {
  const auto* full = dynamic_cast<const StoreFull*>(&error);
  if (full && full->of_owner())
    throw ApiError{
        507,
        "the states of this API key's sessions take all the room that one may have, and nothing was "
        "kept; delete sessions",
        "", "store_full", 0};
  warn("sessions: {}", error.what());
  if (full)
    throw ApiError{
        507,
        "the store of sessions is full, and nothing was kept; delete sessions, or have whoever runs "
        "the server give it more room",
        "", "store_full", 0};
  if (dynamic_cast<const StoreUnavailable*>(&error))
    throw ApiError{503, "the store of sessions cannot be reached", "", "store_unavailable", 1};
  if (dynamic_cast<const SessionDamaged*>(&error))
    throw ApiError{409, "what is kept of the session is no state of this model; delete it", "",
                   "invalid_state", 0};
  throw ApiError{500, "the store of sessions has failed", "", "store_failed", 0};
}

}  // namespace harmonic
