// The values of a GGUF file, asked for one by one, so that those that nobody asked for can be refused.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/convert/gguf_file.h"

namespace harmonic {

// The beginning of a text from a file, fit for one line of an error message.
std::string on_one_line(std::string_view text);

class GgufValues {
 public:
  explicit GgufValues(const GgufFile& file) : file_(file) {}

  // A value; `missing` where the key is not there. All throw Error naming the key for a value of another
  // kind, and those without `missing` where it is not there.
  int64_t integer(std::string_view key, int64_t least, int64_t most);
  int64_t integer(std::string_view key, int64_t least, int64_t most, int64_t missing);
  // The decimal number of fewest digits that is, in f32, the number in the file: 1e-5 and not 9.99999974e-6.
  double number(std::string_view key);
  double number(std::string_view key, double missing);
  bool flag(std::string_view key, bool missing);
  std::string_view text(std::string_view key);
  std::string_view text(std::string_view key, std::string_view missing);
  template <typename T>
  const std::vector<T>& list(std::string_view key, std::string_view of);

  // Names what may be there without meaning for what is computed.
  void ignore(std::string_view key) { asked_.emplace(key); }
  // Throws Error for a key with one of these beginnings that nobody asked for.
  void refuse_others(std::initializer_list<std::string_view> beginnings) const;
  [[noreturn]] void wrong(std::string_view key, std::string_view found, std::string_view expected) const;

  const std::string& name() const { return file_.name(); }

 private:
  const GgufValue* find(std::string_view key);
  const GgufValue& require(std::string_view key);
  template <typename T>
  const T& as(const GgufValue& value, std::string_view key, std::string_view what) const;

  const GgufFile& file_;
  std::set<std::string, std::less<>> asked_;
};

template <typename T>
const std::vector<T>& GgufValues::list(std::string_view key, std::string_view of) {
  const auto* list = std::get_if<GgufList>(&require(key));
  const auto* elements = list ? std::get_if<std::vector<T>>(list) : nullptr;
  if (!elements) wrong(key, "another kind of value", std::string("a list of ") + std::string(of));
  return *elements;
}

}  // namespace harmonic
