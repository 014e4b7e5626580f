#include "harmonic/base/fields.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

template <typename T>
struct item_of {
  using type = T;
  static constexpr bool list = false;
};
template <typename T>
struct item_of<std::vector<T>> {
  using type = T;
  static constexpr bool list = true;
};

std::string full_name(std::string_view section, std::string_view key) {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

[[noreturn]] void refuse(const Field& field, const Value& value, std::string_view name) {
  fail_usage("{}{}{} = {}: expected {}", value.where, value.where.empty() ? "" : ": ", name,
             inline_text(value), expectation_of(field));
}

// What parse_quantity() reads; nothing when it is not a whole number in range.
std::optional<int64_t> quantity_of(std::string_view text) {
  int64_t scale = 1;
  const size_t power = text.empty() ? std::string_view::npos : std::string_view("KMGT").find(text.back());
  if (power != std::string_view::npos) {
    for (size_t i = 0; i <= power; ++i) scale *= 1000;
    text.remove_suffix(1);
  }
  if (text.empty() || text.front() == '.' || text.back() == '.') return std::nullopt;
  int64_t result = 0;
  bool after_point = false;
  for (const char c : text) {
    if (c == '.' && !after_point) {
      after_point = true;
      continue;
    }
    if (c < '0' || c > '9') return std::nullopt;
    if (after_point) {
      // Each digit is worth a tenth of the one before it, and what it adds must stay whole.
      if (scale % 10 != 0 && c != '0') return std::nullopt;
      scale /= 10;
    } else if (__builtin_mul_overflow(result, 10, &result)) {
      return std::nullopt;
    }
    int64_t part;
    if (__builtin_mul_overflow(int64_t{c - '0'}, scale, &part) ||
        __builtin_add_overflow(result, part, &result))
      return std::nullopt;
  }
  return result;
}

// The value as the type T, or nothing when it is of another type.
template <typename T>
std::optional<T> as(const Field& field, const Value& value) {
  if constexpr (std::is_same_v<T, double>) {
    if (const auto* number = std::get_if<double>(&value.data)) return *number;
    if (const auto* integer = std::get_if<int64_t>(&value.data)) return static_cast<double>(*integer);
    return std::nullopt;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    if (const auto* integer = std::get_if<int64_t>(&value.data)) return *integer;
    // 1e6 is a floating-point number to TOML, and an integer to whoever wrote it.
    const auto* number = std::get_if<double>(&value.data);
    if (number && std::trunc(*number) == *number && std::fabs(*number) <= 9007199254740992.0)
      return static_cast<int64_t>(*number);
    const auto* text = std::get_if<std::string>(&value.data);
    if (text && field.quantity) return quantity_of(*text);
    return std::nullopt;
  } else {
    if (const auto* found = std::get_if<T>(&value.data)) return *found;
    return std::nullopt;
  }
}

bool allows(const Field&, bool) { return true; }
bool allows(const Field& field, const std::string& text) {
  return field.allowed.empty() ||
         std::find(field.allowed.begin(), field.allowed.end(), text) != field.allowed.end();
}
bool allows(const Field& field, double number) {
  return std::isfinite(number) && number <= field.max &&
         (field.above_min ? number > field.min : number >= field.min);
}
bool allows(const Field& field, int64_t number) { return allows(field, static_cast<double>(number)); }

template <typename T>
Value to_value(const T& content) {
  Value value;
  if constexpr (item_of<T>::list) {
    if (content.size() == 1) return to_value(content.front());
    Value::List list;
    for (const auto& item : content) list.push_back(to_value(item));
    value.data = std::move(list);
  } else {
    value.data = content;
  }
  return value;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Text as the value it reads as: true, 12, 0.5, else a string.
Value plain_value(std::string_view text) {
  const char* const end = text.data() + text.size();
  int64_t integer;
  double number;
  if (text == "true" || text == "false") return {text == "true", {}};
  if (const auto parsed = std::from_chars(text.data(), end, integer);
      parsed.ec == std::errc{} && parsed.ptr == end)
    return {integer, {}};
  if (const auto parsed = std::from_chars(text.data(), end, number);
      parsed.ec == std::errc{} && parsed.ptr == end)
    return {number, {}};
  return {std::string(text), {}};
}

template <typename T>
Value item_value(std::string_view text) {
  text = trimmed(text);
  if (std::is_same_v<T, bool> && (text == "1" || text == "0")) return {text == "1", {}};  // as in a shell
  if constexpr (!std::is_same_v<T, std::string>) return plain_value(text);
  if (text.size() >= 2 && (text.front() == '"' || text.front() == '\'') && text.back() == text.front())
    text = text.substr(1, text.size() - 2);
  return {std::string(text), {}};
}

// Calls refuse_item() for a list with nothing where an item belongs.
template <typename T>
Value text_value(std::string_view text, const auto& refuse_item) {
  if constexpr (!item_of<T>::list) return item_value<T>(text);
  text = trimmed(text);
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
    text = trimmed(text.substr(1, text.size() - 2));
    if (text.size() > 1 && text.back() == ',') text.remove_suffix(1);  // as TOML has it
  }
  Value::List items;
  for (bool more = !text.empty(); more;) {
    // A comma within quotes belongs to the item.
    size_t end = 0;
    for (char quote = 0; end < text.size() && (quote || text[end] != ','); ++end) {
      if (quote ? text[end] == quote : text[end] == '"' || text[end] == '\'') quote = quote ? 0 : text[end];
    }
    const std::string_view item = text.substr(0, end);
    if (trimmed(item).empty()) refuse_item();
    items.push_back(item_value<typename item_of<T>::type>(item));
    more = end < text.size();
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return {std::move(items), {}};
}

// Damerau's edit distance with adjacent transpositions, small strings.
int distance_of(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = static_cast<int>(i + j);
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

Field Field::one_of(std::vector<std::string> names) && {
  allowed = std::move(names);
  return std::move(*this);
}
Field Field::range(double least, double most) && {
  min = least;
  max = most;
  return std::move(*this);
}
Field Field::at_least(double least) && {
  min = least;
  return std::move(*this);
}
Field Field::above(double limit, double most) && {
  min = limit;
  max = most;
  above_min = true;
  return std::move(*this);
}
Field Field::amount() && {
  min = 0;
  quantity = true;
  return std::move(*this);
}

void set_field(const Field& field, const Value& value, std::string_view name) {
  const auto set = [&](auto* target) {
    using Content = std::remove_pointer_t<decltype(target)>;
    using Item = typename item_of<Content>::type;
    const auto convert = [&](const Value& from) {
      const std::optional<Item> item = as<Item>(field, from);
      if (!item || !allows(field, *item))
        refuse(field, from.where.empty() ? Value{from.data, value.where} : from, name);
      return *item;
    };
    if constexpr (item_of<Content>::list) {
      Content content;
      if (const auto* list = std::get_if<Value::List>(&value.data)) {
        for (const Value& item : *list) content.push_back(convert(item));
      } else {
        content.push_back(convert(value));
      }
      if (content.empty() && field.never_empty)
        fail_usage("{}{}{} is empty: expected {}", value.where, value.where.empty() ? "" : ": ", name,
                   expectation_of(field));
      *target = std::move(content);
    } else {
      *target = convert(value);
    }
  };
  std::visit(set, field.target);
}

void set_field(const Field& field, std::string_view text, std::string_view name, std::string_view where) {
  const auto refuse_item = [&] {
    fail_usage("{}{}{} = \"{}\": an item is empty; expected {}", where, where.empty() ? "" : ": ", name, text,
               expectation_of(field));
  };
  const auto read = [&](auto* target) {
    return text_value<std::remove_pointer_t<decltype(target)>>(text, refuse_item);
  };
  Value value = std::visit(read, field.target);
  value.where = where;
  set_field(field, value, name);
}

const Field& find_field(const std::vector<Field>& fields, std::string_view key, std::string_view section,
                        std::string_view where) {
  std::vector<std::string> keys;
  for (const Field& field : fields) {
    if (field.key == key) return field;
    keys.push_back(full_name(section, field.key));
  }
  const std::string name = full_name(section, key);
  // Whoever leaves a section out means the key that ends so.
  const auto whole = std::find_if(keys.begin(), keys.end(), [&](const std::string& known) {
    return known.ends_with('.' + std::string(key));
  });
  fail_usage("{}{}unknown key \"{}\"{}", where, where.empty() ? "" : ": ", name,
             did_you_mean(whole == keys.end() ? name : *whole, keys));
}

void set_fields(const std::vector<Field>& fields, const Value& table, std::string_view section) {
  const auto set = [&](const auto& self, const Value& node, const std::string& prefix) -> void {
    if (!node.table())
      fail_usage("{}: [{}] is a section of settings; found {}", node.where, full_name(section, prefix),
                 inline_text(node));
    for (const auto& [key, child] : *node.table()) {
      const std::string path = prefix.empty() ? key : prefix + '.' + key;
      const bool is_section = std::any_of(fields.begin(), fields.end(), [&](const Field& field) {
        return field.key.starts_with(path + '.');
      });
      if (is_section) {
        self(self, child, path);
      } else {
        set_field(find_field(fields, path, section, child.where), child, full_name(section, path));
      }
    }
  };
  set(set, table, "");
}

void check_fields(const std::vector<Field>& fields, std::string_view section) {
  for (const Field& field : fields) {
    const auto check = [&](const auto& item) {
      if (!allows(field, item)) refuse(field, value_of(field), full_name(section, field.key));
    };
    const auto check_all = [&](auto* target) {
      if constexpr (item_of<std::remove_pointer_t<decltype(target)>>::list) {
        for (const auto& item : *target) check(item);
      } else {
        check(*target);
      }
    };
    std::visit(check_all, field.target);
  }
}

Value value_of(const Field& field) {
  return std::visit([](const auto* target) { return to_value(*target); }, field.target);
}

Value values_of(const std::vector<Field>& fields) {
  Value table{Value::Table{}, {}};
  for (const Field& field : fields) table.at(field.key) = value_of(field);
  return table;
}

std::string text_of(const Field& field) {
  const auto print = [&](const auto* target) -> std::string {
    using Content = std::remove_cv_t<std::remove_pointer_t<decltype(target)>>;
    if constexpr (std::is_same_v<Content, std::string>) {
      return *target;
    } else if constexpr (item_of<Content>::list) {
      return fmt::format("{}", fmt::join(*target, ","));
    } else if constexpr (std::is_same_v<Content, int64_t>) {
      return field.quantity ? quantity_text(*target) : std::to_string(*target);
    } else {
      return fmt::format("{}", *target);
    }
  };
  return std::visit(print, field.target);
}

std::string expectation_of(const Field& field) {
  const auto describe = [&](const auto* target) -> std::string {
    using Content = std::remove_cv_t<std::remove_pointer_t<decltype(target)>>;
    using Item = typename item_of<Content>::type;
    if constexpr (std::is_same_v<Item, bool>) {
      return "true or false";
    } else if constexpr (std::is_same_v<Item, std::string>) {
      const std::string what = item_of<Content>::list ? "text or a list of texts" : "text";
      if (field.allowed.empty()) return what;
      return fmt::format("{}{}", item_of<Content>::list ? "one or a list of " : "one of ",
                         fmt::join(field.allowed, ", "));
    } else {
      std::string what = std::is_same_v<Item, double> ? "number" : "whole number";
      what = item_of<Content>::list ? fmt::format("a list of {}s", what) : fmt::format("a {}", what);
      if (field.quantity) what += " (as 64K, 20M or 1.5G)";
      const bool low = std::isfinite(field.min), high = std::isfinite(field.max);
      if (low)
        what += fmt::format(" {} {}", field.above_min ? "above" : high ? "from" : "of at least", field.min);
      if (high)
        what += fmt::format(" {} {}",
                            low && !field.above_min ? "to"
                            : low                   ? "and at most"
                                                    : "of at most",
                            field.max);
      return what;
    }
  };
  return std::visit(describe, field.target);
}

std::string type_name_of(const Field& field) {
  const auto describe = [&](const auto* target) -> std::string {
    using Content = std::remove_cv_t<std::remove_pointer_t<decltype(target)>>;
    using Item = typename item_of<Content>::type;
    std::string name = "TEXT";
    if constexpr (std::is_same_v<Item, bool>) name = "true|false";
    if constexpr (std::is_same_v<Item, int64_t>) name = "N";
    if constexpr (std::is_same_v<Item, double>) name = "X";
    if (!field.allowed.empty()) name = fmt::format("{}", fmt::join(field.allowed, "|"));
    return item_of<Content>::list ? name + ",..." : name;
  };
  return std::visit(describe, field.target);
}

int64_t parse_quantity(std::string_view text) {
  if (const auto quantity = quantity_of(text)) return *quantity;
  fail_usage("\"{}\": expected a whole number, as 4096, 64K, 20M or 1.5G", text);
}

std::string quantity_text(int64_t quantity) {
  int64_t scale = 1'000'000'000'000;
  for (const char suffix : std::string_view("TGMK")) {
    const int64_t tenths = quantity / (scale / 10);
    if (quantity >= scale && quantity % (scale / 10) == 0)
      return tenths % 10 ? fmt::format("{}.{}{}", tenths / 10, tenths % 10, suffix)
                         : fmt::format("{}{}", tenths / 10, suffix);
    scale /= 1000;
  }
  return std::to_string(quantity);
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  if (name.size() > 100) return "";
  std::string best;
  int best_distance = static_cast<int>(std::max<size_t>(name.size(), 3)) / 3 + 1;
  for (const std::string& candidate : candidates) {
    const int distance = distance_of(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(name, candidates);
  return nearest.empty() ? "" : fmt::format("; did you mean \"{}\"?", nearest);
}

}  // namespace harmonic
