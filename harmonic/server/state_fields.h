// The fields of a request that say where its text goes on from, and where it is to be kept.
#pragma once

#include <memory>
#include <string>

#include "harmonic/server/api_error.h"
#include "harmonic/server/json_fields.h"
#include "harmonic/server/service.h"

namespace harmonic {

// "state", a token: null when there is none. Throws ApiError.
std::shared_ptr<const TextPoint> read_state_token(Service& service, const Call& call, JsonFields& fields);
// A token for a point, as a field of an answer: "state":"...". Throws ApiError where there can be none, and
// as check_point() does.
std::string state_token_field(const Service& service, const Call& call, const TextPoint& point, bool sent);
// Throws ApiError where a token cannot be made: before work is done for one.
void check_state_tokens(const Service& service);

// The tokens of a text: of the `first` of a document, or of one that goes on from what stands before it.
std::vector<int32_t> encode_text(const Tokenizer& tokenizer, std::string_view text, bool first);
// Of a text whose numbers are not finite any more, as those after a forged state may be. `sent`: the state
// came with the request; the server kept it otherwise.
ApiError invalid_state_error(bool sent);
// Throws invalid_state_error() for a point from which nothing could go on: it is neither kept nor given out.
void check_point(const Service& service, const TextPoint& point, bool sent);

// Runs `use`; what it throws of Sessions' becomes an ApiError.
template <typename Use>
auto with_sessions(const Use& use);

[[noreturn]] void fail_no_session();
[[noreturn]] void fail_session_in_use();
[[noreturn]] void fail_too_many_sessions(const Sessions::TooMany& limit);
// The store does not do what it should. Why and where is for the log, not for clients.
[[noreturn]] void fail_store(const Error& error);

template <typename Use>
auto with_sessions(const Use& use) {
  try {
    return use();
  } catch (const Sessions::NotFound&) {
    fail_no_session();
  } catch (const Sessions::InUse&) {
    fail_session_in_use();
  } catch (const SessionStore::Changed&) {
    fail_session_in_use();
  } catch (const Sessions::TooMany& limit) {
    fail_too_many_sessions(limit);
  } catch (const Error& error) {
    fail_store(error);
  }
}

}  // namespace harmonic
