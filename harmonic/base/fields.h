// One table of configuration fields: from it come the TOML keys, the flags, the environment variables,
// --help, config.json and the documentation. A struct of settings binds a Field to each of its members.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "harmonic/base/value.h"

namespace harmonic {

struct Field {
  // A list accepts a single value too, and a list of one is written as that value.
  using Target = std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*,
                              std::vector<double>*, std::vector<std::string>*>;

  Field(std::string key_, Target target_, std::string help_)
      : key(std::move(key_)), target(target_), help(std::move(help_)) {}

  std::string key;                   // within its section, dotted: "harmonic.cell"
  Target target;                     // not owned; must outlive the field
  std::string help;                  // one line, without a full stop
  std::vector<std::string> allowed;  // for strings, and each item of lists of them; empty is any
  double min = -std::numeric_limits<double>::infinity();  // for numbers and each item of lists of them
  double max = std::numeric_limits<double>::infinity();   // inclusive; nan and infinities are always refused
  bool above_min = false;                                 // min itself is refused
  bool quantity = false;     // an int64, or each of a list, that may be written "64K", "20M", "1.5G"
  bool never_empty = false;  // a list of one or more

  // Builders: Field("lr", &lr, "learning rate").above(0).
  Field one_of(std::vector<std::string> names) &&;
  Field range(double least, double most) &&;
  Field at_least(double least) &&;
  Field above(double limit, double most = std::numeric_limits<double>::infinity()) &&;
  Field amount() &&;  // a quantity of at least 0
};

// Sets a field from a value of a file. `name` is the whole key ("train.lr") for messages. Throws Error
// (usage) naming the key, the value and what is expected; the target is then unchanged.
void set_field(const Field& field, const Value& value, std::string_view name);
// Sets a field from the text of a flag or an environment variable (`where`). Lists are divided by commas,
// with nothing empty between them; brackets and quotes as in TOML may be there or not. Switches take 1 and 0
// too.
void set_field(const Field& field, std::string_view text, std::string_view name, std::string_view where);

// Sets fields from a nested table. A key that no field has is an error with the nearest one.
void set_fields(const std::vector<Field>& fields, const Value& table, std::string_view section);
// The field with this key, or an error with the nearest key. `section` ("train", may be empty) is for
// messages.
const Field& find_field(const std::vector<Field>& fields, std::string_view key, std::string_view section,
                        std::string_view where);
// Checks that what stands in the targets is allowed: configurations are also made by programs.
void check_fields(const std::vector<Field>& fields, std::string_view section);

Value value_of(const Field& field);                 // as it stands now
Value values_of(const std::vector<Field>& fields);  // all, nested by the dots of their keys
std::string text_of(const Field& field);            // for --help: harmonic, 0.003, 1,4,16, 20M
std::string expectation_of(const Field& field);     // "a number above 0", "one of decay, selective"
std::string type_name_of(const Field& field);       // for --help: NUMBER, TEXT, ...

// "20M" -> 20,000,000: an optional decimal fraction and K, M, G or T for powers of 1,000. Throws Error
// (usage) when it is not a whole number in range.
int64_t parse_quantity(std::string_view text);
// Such a text with at most one digit after the point, where there is one; else plain digits.
std::string quantity_text(int64_t quantity);

// The candidate that `name` was probably meant to be; empty when none is close.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);
// "; did you mean \"x\"?" or nothing.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace harmonic
