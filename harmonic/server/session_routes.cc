// /v1/sessions: texts that the server keeps.
#include <sodium.h>

#include "harmonic/runtime/state_file.h"
#include "harmonic/server/api_error.h"
#include "harmonic/server/generation.h"
#include "harmonic/server/http_text.h"
#include "harmonic/server/json_text.h"
#include "harmonic/server/state_fields.h"

namespace harmonic {
namespace {

constexpr int64_t kMostForks = 1024, kMostCheckpoints = 64, kMostListed = 1000;
constexpr size_t kLongestName = 64;
// Fields that say how a text is written.
constexpr const char* kWriting[] = {"max_tokens", "temperature", "top_p",      "top_k",          "min_p",
                                    "seed",       "stop",        "ignore_end", "return_activity"};

std::string summary_of(const Session& session) {
  return fmt::format(R"("id":{},"object":"session","created":{},"used":{},"parent":{})",
                     json_text(session.id), session.created, session.used,
                     session.parent.empty() ? "null" : json_text(session.parent));
}

std::string text_of(const Session& session) {
  std::string names;
  for (const auto& [name, point] : session.checkpoints)
    names += fmt::format("{}{{\"name\":{},\"tokens\":{}}}", names.empty() ? "" : ",", json_text(name),
                         point->length());
  return fmt::format(R"({{{},"tokens":{},"state_bytes":{},"checkpoints":[{}]}})", summary_of(session),
                     session.point->length(), session.point->state.bytes(), names);
}

std::string read_name(JsonFields& fields) {
  const std::string name = fields.text("name");
  if (name.empty() || name.size() > kLongestName)
    fail_field("name", "name: expected a text of 1 to {} bytes", kLongestName);
  return name;
}

// Makes a session and answers with what it is, without a second look: another request may have ended it.
void create(Service& service, const Call& call, Session::Point point) {
  answer(call, text_of(with_sessions([&] { return service.sessions.create(call.owner, std::move(point)); })));
}

// Changes a session at once, and answers with what it is then. It is let go of before: who has the answer may
// ask again.
template <typename Change>
void change(Service& service, const Call& call, const Change& apply) {
  std::string text;
  {
    Sessions::Lease lease = with_sessions([&] { return service.sessions.lease(call.owner, call.id); });
    apply(lease.session);
    with_sessions([&] { lease.save(); });
    text = text_of(lease.session);
  }
  answer(call, std::move(text));
}

// The session goes on with what the fields say, and is written when all of it is done.
void go_on(Service& service, const Call& call, bool writes) {
  JsonFields fields(call.exchange->request());
  auto lease = std::make_shared<Sessions::Lease>(
      with_sessions([&] { return service.sessions.lease(call.owner, call.id); }));
  for (const char* name : kWriting)
    if (!writes && fields.find(name)) fail_field(name, "{}: nothing is written here; generate writes", name);
  GenerationPlan plan;
  plan.from = lease->session.point;
  read_completion(service, fields, plan);
  fields.done();
  if (!writes) plan.max_tokens = 0;
  if (plan.prompts.size() != 1 || plan.choices != 1)
    fail_field("n", "a session goes on in one way: expected one prompt and n = 1; fork it for more");
  plan.ended = [&service, lease = std::move(lease)](std::vector<TextPoint> points) {
    check_point(service, points.front(), false);
    lease->session.point = std::make_shared<const TextPoint>(std::move(points.front()));
    with_sessions([&] { lease->save(); });
    return fmt::format(R"("session":{})", text_of(lease->session));
  };
  generate(service, call, std::move(plan));
}

}  // namespace

void route_create_session(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  Session::Point point = read_state_token(service, call, fields);
  fields.done();
  if (!point) point = std::make_shared<const TextPoint>(beginning_of_text(service.model()));
  create(service, call, std::move(point));
}

void route_list_sessions(Service& service, const Call& call) {
  // after=ID&limit=N
  std::string after;
  int64_t limit = 100;
  for (std::string_view rest = call.exchange->request().query; !rest.empty();) {
    const std::string_view one = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    if (one.starts_with("after=")) {
      after = one.substr(6);
    } else if (one.starts_with("limit=") && one.size() < 12 &&
               one.find_first_not_of("0123456789", 6) == one.npos && one.size() > 6) {
      limit = std::stoll(std::string(one.substr(6)));
    } else {
      throw ApiError{400, "expected after=ID and limit=N in the query", "limit", "invalid_value", 0};
    }
  }
  if (limit < 1 || limit > kMostListed)
    fail_field("limit", "limit: expected a number from 1 to {}", kMostListed);
  std::string list;
  std::vector<Session> sessions =
      with_sessions([&] { return service.sessions.list(call.owner, after, limit + 1); });
  const bool more = static_cast<int64_t>(sessions.size()) > limit;
  if (more) sessions.pop_back();
  for (const Session& session : sessions)
    list += fmt::format("{}{{{}}}", list.empty() ? "" : ",", summary_of(session));
  answer(call, fmt::format(R"({{"object":"list","data":[{}],"has_more":{}}})", list, more));
}

void route_show_session(Service& service, const Call& call) {
  answer(call, text_of(with_sessions([&] { return service.sessions.look(call.owner, call.id); })));
}

void route_delete_session(Service& service, const Call& call) {
  with_sessions([&] { service.sessions.erase(call.owner, call.id); });
  answer(call, fmt::format(R"({{"id":{},"object":"session","deleted":true}})", json_text(call.id)));
}

void route_append(Service& service, const Call& call) { go_on(service, call, false); }
void route_generate(Service& service, const Call& call) { go_on(service, call, true); }

void route_fork(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  const int64_t n = fields.integer("n", 1, 1, kMostForks);
  fields.done();
  Session fork = with_sessions([&] { return service.sessions.look(call.owner, call.id); });
  const std::vector<std::string> ids = with_sessions([&] { return service.sessions.fork(fork, n); });
  fork.parent = fork.id;
  fork.created = fork.used = unix_seconds();
  std::string list;
  for (const std::string& id : ids) {
    fork.id = id;
    list += (list.empty() ? "" : ",") + text_of(fork);
  }
  answer(call, fmt::format(R"({{"object":"list","data":[{}]}})", list));
}

void route_checkpoint(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  const std::string name = read_name(fields);
  fields.done();
  change(service, call, [&](Session& session) {
    if (!session.checkpoints.contains(name) && session.checkpoints.size() >= kMostCheckpoints)
      fail_field("name", "at most {} checkpoints a session", kMostCheckpoints);
    session.checkpoints[name] = session.point;
  });
}

void route_rewind(Service& service, const Call& call) {
  JsonFields fields(call.exchange->request());
  const std::string name = read_name(fields);
  fields.done();
  change(service, call, [&](Session& session) {
    const auto found = session.checkpoints.find(name);
    if (found == session.checkpoints.end())
      throw ApiError{404, "the session has no such checkpoint", "name", "checkpoint_not_found", 0};
    session.point = found->second;
  });
}

void route_export(Service& service, const Call& call) {
  const Session session = with_sessions([&] { return service.sessions.look(call.owner, call.id); });
  call.exchange->respond({200,
                          "application/octet-stream",
                          state_file_bytes(*session.point, service.identity),
                          {{"Content-Disposition", "attachment; filename=\"session.safetensors\""}}});
}

void route_import(Service& service, const Call& call) {
  const HttpRequest& request = call.exchange->request();
  if (media_type(request) != "application/octet-stream")
    throw ApiError{415, "expected Content-Type: application/octet-stream and an exported state as the body",
                   "", "unsupported_media_type", 0};
  TextPoint point;
  try {
    point = read_state_file(request.body, service.model(), service.identity, "the state");
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "", "invalid_state", 0};
  }
  create(service, call, std::make_shared<const TextPoint>(std::move(point)));
}

}  // namespace harmonic
