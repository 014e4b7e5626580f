// The fields of a request that say where its text goes on from, and where it is to be kept.
#pragma once

#include <memory>
#include <string>

#include "harmonic/server/json_fields.h"
#include "harmonic/server/service.h"

namespace harmonic {

// "state", a token: null when there is none. Throws ApiError.
std::shared_ptr<const TextPoint> read_state_token(Service& service, const Call& call, JsonFields& fields);
// A token for a point, as a field of an answer: "state":"...". Throws ApiError where there can be none.
std::string state_token_field(const Service& service, const Call& call, const TextPoint& point);
// Throws ApiError where a token cannot be made: before work is done for one.
void check_state_tokens(const Service& service);

// The tokens of a text: of the `first` of a document, or of one that goes on from what stands before it.
std::vector<int32_t> encode_text(const Tokenizer& tokenizer, std::string_view text, bool first);
// Throws ApiError 409 for a point from which nothing could go on, as one that came of a forged state: it is
// neither kept nor given out.
void check_point(const Service& service, const TextPoint& point);

// Runs `use`; what it throws of Sessions' becomes an ApiError.
template <typename Use>
auto with_sessions(const Use& use);

[[noreturn]] void fail_no_session();
[[noreturn]] void fail_session_in_use();
[[noreturn]] void fail_too_many_sessions();
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
  } catch (const Sessions::TooMany&) {
    fail_too_many_sessions();
  } catch (const Error& error) {
    fail_store(error);
  }
}

}  // namespace harmonic
