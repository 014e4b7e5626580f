#include "harmonic/server/json_fields.h"

#include <cmath>

#include "harmonic/base/fields.h"
#include "harmonic/server/api_error.h"
#include "harmonic/server/http_text.h"

namespace harmonic {
namespace {

constexpr int kMostDepth = 24;
constexpr int64_t kMostNames = 256;  // of an object

}  // namespace

JsonFields::JsonFields(const HttpRequest& request) : object_(Json::object()) {
  if (request.body.empty()) return;
  // A page of another site can send a form, but no JSON, without asking first.
  if (media_type(request) != "application/json")
    throw ApiError{415, "expected Content-Type: application/json", "", "unsupported_media_type", 0};
  try {
    object_ = parse_json(request.body, "the body", kMostDepth, kMostNames);
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "", "invalid_json", 0};
  }
  if (!object_.is_object()) throw ApiError{400, "expected a JSON object as the body", "", "invalid_json", 0};
}

const Json* JsonFields::find(const std::string& name) {
  known_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

int64_t JsonFields::integer(const std::string& name, int64_t otherwise, int64_t least, int64_t most) {
  const Json* value = find(name);
  if (!value) return otherwise;
  const bool fits =
      value->is_number_integer() &&
      !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  if (!fits || value->get<int64_t>() < least || value->get<int64_t>() > most)
    fail_field(name, "{}: expected a whole number from {} to {}", name, least, most);
  return value->get<int64_t>();
}

double JsonFields::number(const std::string& name, double otherwise, double least, double most) {
  const Json* value = find(name);
  if (!value) return otherwise;
  if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most))
    fail_field(name, "{}: expected a number from {} to {}", name, least, most);
  return value->get<double>();
}

bool JsonFields::flag(const std::string& name, bool otherwise) {
  const Json* value = find(name);
  if (!value) return otherwise;
  if (!value->is_boolean()) fail_field(name, "{}: expected true or false", name);
  return value->get<bool>();
}

std::string JsonFields::text(const std::string& name, std::string otherwise) {
  const Json* value = find(name);
  if (!value) return otherwise;
  if (!value->is_string()) fail_field(name, "{}: expected a text", name);
  return value->get<std::string>();
}

void JsonFields::unsupported(const std::string& name, const Json& harmless) {
  const Json* value = find(name);
  if (!value || *value == harmless || (value->is_number() && value->get<double>() == 0) ||
      (value->is_boolean() && !value->get<bool>()) || (value->is_structured() && value->empty()))
    return;
  fail_field(name, "{} is not supported here", name);
}

void JsonFields::done() const {
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    // The name is a client's: it is shown cut.
    throw ApiError{400,
                   fmt::format("unknown field \"{}\"{}", name.substr(0, 64),
                               did_you_mean(name.substr(0, 64), {known_.begin(), known_.end()})),
                   name.substr(0, 64), "unknown_field", 0};
  }
}

}  // namespace harmonic
