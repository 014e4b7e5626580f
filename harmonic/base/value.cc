#include "harmonic/base/value.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>

#include "harmonic/base/checked.h"
#include "harmonic/base/json.h"
#include "harmonic/base/utf8.h"

namespace harmonic {
namespace {

std::string place(std::string_view source, const toml::source_region& region) {
  return fmt::format("{}:{}:{}", source, region.begin.line, region.begin.column);
}

Value from_toml(const toml::node& node, std::string_view source) {
  Value value;
  value.where = place(source, node.source());
  if (const auto* table = node.as_table()) {
    Value::Table entries;
    // toml++ keeps them by name.
    std::vector<std::pair<const toml::key*, const toml::node*>> written;
    for (const auto& [key, child] : *table) written.emplace_back(&key, &child);
    std::stable_sort(written.begin(), written.end(), [](const auto& a, const auto& b) {
      const toml::source_position x = a.first->source().begin, y = b.first->source().begin;
      return std::pair(x.line, x.column) < std::pair(y.line, y.column);
    });
    for (const auto& [key, child] : written) {
      entries.emplace_back(std::string(key->str()), from_toml(*child, source));
      // The key's place serves a person better than the value's.
      if (!child->is_table()) entries.back().second.where = place(source, key->source());
    }
    value.data = std::move(entries);
  } else if (const auto* array = node.as_array()) {
    Value::List items;
    for (const toml::node& child : *array) items.push_back(from_toml(child, source));
    value.data = std::move(items);
  } else if (const auto* text = node.as_string()) {
    value.data = text->get();
  } else if (const auto* integer = node.as_integer()) {
    value.data = int64_t{integer->get()};
  } else if (const auto* number = node.as_floating_point()) {
    value.data = number->get();
  } else if (const auto* flag = node.as_boolean()) {
    value.data = flag->get();
  } else {
    fail_usage("{}: expected a number, a string, true or false, or a list; found a date or time",
               value.where);
  }
  return value;
}

Value from_json(const Json& json, std::string_view source) {
  Value value;
  value.where = source;
  if (json.is_object()) {
    Value::Table entries;
    for (const auto& [key, child] : json.items()) entries.emplace_back(key, from_json(child, source));
    value.data = std::move(entries);
  } else if (json.is_array()) {
    Value::List items;
    for (const Json& child : json) items.push_back(from_json(child, source));
    value.data = std::move(items);
  } else if (json.is_string()) {
    value.data = json.get<std::string>();
  } else if (json.is_boolean()) {
    value.data = json.get<bool>();
  } else if (json.is_number_unsigned()) {
    value.data = checked_narrow<int64_t>(json.get<uint64_t>(), source);
  } else if (json.is_number_integer()) {
    value.data = json.get<int64_t>();
  } else if (json.is_number_float()) {
    value.data = json.get<double>();
  }
  return value;
}

Json into_json(const Value& value) {
  struct Visitor {
    Json operator()(std::monostate) const { return nullptr; }
    Json operator()(const Value::List& list) const {
      Json json = Json::array();
      for (const Value& item : list) json.push_back(into_json(item));
      return json;
    }
    Json operator()(const Value::Table& table) const {
      Json json = Json::object();
      for (const auto& [key, child] : table) json[key] = into_json(child);
      return json;
    }
    Json operator()(bool flag) const { return flag; }
    Json operator()(int64_t integer) const { return integer; }
    Json operator()(double number) const { return number; }
    Json operator()(const std::string& text) const { return text; }
  };
  return std::visit(Visitor{}, value.data);
}

std::string quote(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string number_text(double number) {
  std::string text = fmt::format("{}", number);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

std::string key_text(std::string_view key) {
  const bool bare = !key.empty() && key.find_first_not_of(
                                        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                        "0123456789_-") == std::string_view::npos;
  return bare ? std::string(key) : quote(key);
}

// TOML is UTF-8; a path on the command line may be anything.
void check_utf8(const std::string& line) {
  if (is_utf8(line)) return;
  std::string shown;
  for (const char c : line)
    shown += static_cast<unsigned char>(c) < 0x80 ? std::string(1, c)
                                                  : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  fail_usage("{}: settings are kept as UTF-8, and this is not; give the file another name", shown);
}

void write_section(const Value::Table& table, const std::string& name, std::string& text) {
  bool headed = name.empty();
  for (const auto& [key, child] : table) {
    if (child.table()) continue;
    if (!headed) text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", name);
    headed = true;
    const std::string line = fmt::format("{} = {}", key_text(key), inline_text(child));
    check_utf8(line);
    text += line + '\n';
  }
  for (const auto& [key, child] : table) {
    if (const auto* section = child.table())
      write_section(*section, name.empty() ? key_text(key) : name + '.' + key_text(key), text);
  }
}

}  // namespace

const Value* Value::find(std::string_view key) const {
  if (const Table* entries = table()) {
    for (const auto& [name, value] : *entries)
      if (name == key) return &value;
  }
  return nullptr;
}

Value& Value::at(std::string_view dotted_path) {
  if (std::holds_alternative<std::monostate>(data)) data = Table{};
  HARMONIC_ASSERT(table());
  const size_t dot = dotted_path.find('.');
  const std::string_view key = dotted_path.substr(0, dot);
  Value* entry = const_cast<Value*>(find(key));
  if (!entry) entry = &std::get<Table>(data).emplace_back(std::string(key), Value{}).second;
  return dot == std::string_view::npos ? *entry : entry->at(dotted_path.substr(dot + 1));
}

Value parse_toml(std::string_view text, std::string_view source) {
  try {
    return from_toml(toml::parse(text, std::string(source)), source);
  } catch (const toml::parse_error& error) {
    fail_usage("{}: not valid TOML: {}", place(source, error.source()), error.description());
  }
}

Value parse_json_value(std::string_view text, std::string_view source) {
  return from_json(parse_json(text, source), source);
}

std::string inline_text(const Value& value) {
  struct Visitor {
    std::string operator()(std::monostate) const { return "nothing"; }
    std::string operator()(bool flag) const { return flag ? "true" : "false"; }
    std::string operator()(int64_t integer) const { return std::to_string(integer); }
    std::string operator()(double number) const { return number_text(number); }
    std::string operator()(const std::string& text) const { return quote(text); }
    std::string operator()(const Value::List& list) const {
      std::string text = "[";
      for (const Value& item : list) text += (text.size() > 1 ? ", " : "") + inline_text(item);
      return text + "]";
    }
    std::string operator()(const Value::Table& table) const {
      std::string text = "{";
      for (const auto& [key, child] : table)
        text += fmt::format("{} {} = {}", text.size() > 1 ? "," : "", key_text(key), inline_text(child));
      return text + " }";
    }
  };
  return std::visit(Visitor{}, value.data);
}

std::string to_toml(const Value& table) {
  HARMONIC_ASSERT(table.table());
  std::string text;
  write_section(*table.table(), "", text);
  return text;
}

std::string to_json(const Value& value) {
  // Bytes that are not UTF-8 (a path may hold any) are replaced rather than thrown at.
  return into_json(value).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace harmonic
