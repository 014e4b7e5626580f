#include "harmonic/convert/gguf_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "harmonic/base/error.h"

namespace harmonic {

std::string on_one_line(std::string_view text) {
  constexpr size_t most = 60;
  std::string line(text.substr(0, most));
  for (char& c : line)
    if (c < ' ' || c > '~') c = '?';
  return text.size() > most ? line + "..." : line;
}

const GgufValue* GgufValues::find(std::string_view key) {
  asked_.emplace(key);
  const auto found = file_.values().find(key);
  return found == file_.values().end() ? nullptr : &found->second;
}

const GgufValue& GgufValues::require(std::string_view key) {
  const GgufValue* value = find(key);
  if (!value) fail("{}: the value {} is missing", name(), key);
  return *value;
}

template <typename T>
const T& GgufValues::as(const GgufValue& value, std::string_view key, std::string_view what) const {
  const T* found = std::get_if<T>(&value);
  if (!found) wrong(key, "another kind of value", what);
  return *found;
}

int64_t GgufValues::integer(std::string_view key, int64_t least, int64_t most) {
  const auto number = as<int64_t>(require(key), key, "an integer");
  if (number < least || number > most)
    wrong(key, fmt::to_string(number), fmt::format("{} to {}", least, most));
  return number;
}
int64_t GgufValues::integer(std::string_view key, int64_t least, int64_t most, int64_t missing) {
  return find(key) ? integer(key, least, most) : missing;
}

double GgufValues::number(std::string_view key) {
  const auto number = as<double>(require(key), key, "a floating-point number");
  if (!std::isfinite(number)) wrong(key, fmt::to_string(number), "a finite number");
  return std::strtod(fmt::to_string(static_cast<float>(number)).c_str(), nullptr);
}
double GgufValues::number(std::string_view key, double missing) { return find(key) ? number(key) : missing; }

bool GgufValues::flag(std::string_view key, bool missing) {
  const GgufValue* value = find(key);
  return value ? as<bool>(*value, key, "a truth value") : missing;
}

std::string_view GgufValues::text(std::string_view key) {
  return as<std::string_view>(require(key), key, "a text");
}
std::string_view GgufValues::text(std::string_view key, std::string_view missing) {
  return find(key) ? text(key) : missing;
}

void GgufValues::refuse_others(std::initializer_list<std::string_view> beginnings) const {
  for (const auto& [key, value] : file_.values()) {
    const bool matters = std::any_of(beginnings.begin(), beginnings.end(),
                                     [&key = key](std::string_view b) { return key.starts_with(b); });
    if (matters && !asked_.contains(key))
      fail("{}: the value {} is not known and may change what the model computes; it is not supported",
           name(), key);
  }
}

void GgufValues::wrong(std::string_view key, std::string_view found, std::string_view expected) const {
  fail("{}: {} is {}; expected {}", name(), key, on_one_line(found), expected);
}

}  // namespace harmonic
