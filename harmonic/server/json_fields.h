// The fields of a request's JSON object: each is asked for with its type and bounds, and what nobody asked
// for is an error, so that no client's setting is silently dropped.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "harmonic/base/json.h"
#include "harmonic/server/http_server.h"

namespace harmonic {

class JsonFields {
 public:
  // The body of a request, an object; an empty body is one without fields. Throws ApiError, as all do.
  explicit JsonFields(const HttpRequest& request);
  // The fields of an object within one.
  explicit JsonFields(Json object) : object_(std::move(object)) {}

  // Null when it is missing or null.
  const Json* find(const std::string& name);
  int64_t integer(const std::string& name, int64_t otherwise, int64_t least, int64_t most);
  double number(const std::string& name, double otherwise, double least, double most);
  bool flag(const std::string& name, bool otherwise);
  std::string text(const std::string& name, std::string otherwise = {});
  // A field that is known and does nothing here.
  void ignore(const std::string& name) { find(name); }
  // One that would change the result and cannot: any value but null, 0, false, {}, [] or `harmless` is
  // refused.
  void unsupported(const std::string& name, const Json& harmless = nullptr);
  // Call last: refuses the fields that are left.
  void done() const;

 private:
  Json object_;
  std::set<std::string> known_;
};

}  // namespace harmonic
