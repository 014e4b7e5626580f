// A tree of plain values: what TOML and JSON files of settings are read into and written from, so that only
// value.cc knows the two formats.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace harmonic {

struct Value {
  using List = std::vector<Value>;
  using Table = std::vector<std::pair<std::string, Value>>;  // in the order written; no key twice
  std::variant<std::monostate, bool, int64_t, double, std::string, List, Table> data;
  std::string where;  // "run.toml:3:5", for error messages; empty when the program made it

  const Table* table() const { return std::get_if<Table>(&data); }
  // The entry of a table; null when this is not a table or has no such key.
  const Value* find(std::string_view key) const;
  // The entry under a dotted path, made (with the tables on the way) when it is missing. This must be a table
  // or nothing yet.
  Value& at(std::string_view dotted_path);
};

// Both throw Error (usage) with the place; `source` names the text. Nesting is bounded.
Value parse_toml(std::string_view text, std::string_view source);
Value parse_json_value(std::string_view text, std::string_view source);

// One line, as TOML writes it: "text", 0.003, [1, 4]. Numbers survive reading back to the bit.
std::string inline_text(const Value& value);
// A whole table as TOML: plain keys first, then [sections]. The text depends on the values alone. Throws
// Error (usage) for text that is not UTF-8.
std::string to_toml(const Value& table);
// As JSON, indented by two, numbers as above.
std::string to_json(const Value& value);

}  // namespace harmonic
