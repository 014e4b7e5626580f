#include "harmonic/cli/options.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/model/presets.h"

namespace harmonic {
namespace {

bool is_list(const Field& field) { return field.target.index() >= 4; }
bool is_flag(const Field& field) { return std::holds_alternative<bool*>(field.target); }

// Values of a list as one text that set_field() divides again. Numbers and names from a set may be divided by
// commas within a value too; in other texts, such as paths, quotes keep commas what they are.
std::string list_text(const Field& field, const std::vector<std::string>& values) {
  if (!std::holds_alternative<std::vector<std::string>*>(field.target) || !field.allowed.empty())
    return fmt::format("{}", fmt::join(values, ","));
  std::string text = "[";
  for (const std::string& value : values) {
    const char quote = value.find('"') == std::string::npos ? '"' : '\'';
    text += fmt::format("{}{}{}{}", text.size() > 1 ? "," : "", quote, value, quote);
  }
  return text + "]";
}

// The texts that `option` was given, as one.
std::string given_text(const Field& field, const CLI::Option& option) {
  return is_list(field) ? list_text(field, option.results()) : option.results().back();
}

// Sets a command's own option to what it was given. Texts are taken as they stand, unlike those of settings,
// which are read as TOML: a prompt may begin with a blank or a quote.
void set_given(const Field& field, const CLI::Option& option) {
  if (std::holds_alternative<std::string*>(field.target)) {
    set_field(field, Value{option.results().back(), {}}, field.key);
  } else if (std::holds_alternative<std::vector<std::string>*>(field.target) && field.allowed.empty()) {
    Value::List list;
    for (const std::string& text : option.results()) list.push_back({text, {}});
    set_field(field, Value{std::move(list), {}}, field.key);
  } else {
    set_field(field, given_text(field, option), field.key, "");
  }
}

CLI::Option* declare(CLI::App& app, const std::string& name, const Field& field) {
  if (is_flag(field)) return app.add_flag(name)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  CLI::Option* option = app.add_option(name);
  if (is_list(field)) {
    option->expected(1, CLI::detail::expected_max_vector_size)->allow_extra_args();
  } else {
    option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  return option;
}

// One row of --help: the flag, then what it does, wrapped at 100 columns.
std::string row(const std::string& flag, const std::string& text) {
  constexpr size_t kColumn = 30, kWidth = 100;
  std::string result = fmt::format("  {:<{}}", flag, kColumn - 2);
  if (flag.size() > kColumn - 3) result += '\n' + std::string(kColumn, ' ');
  size_t column = kColumn;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t space = std::min(rest.find(' '), rest.size());
    if (column > kColumn && column + space > kWidth) {
      result += '\n' + std::string(kColumn, ' ');
      column = kColumn;
    }
    result += rest.substr(0, space);
    rest.remove_prefix(space);
    column += space + 1;
    if (!rest.empty()) {
      rest.remove_prefix(1);
      result += ' ';
    }
  }
  return result + '\n';
}

}  // namespace

Options::Option& Options::Option::required() {
  is_required = true;
  return not_empty();
}
Options::Option& Options::Option::not_empty() {
  refuses_empty = true;
  return *this;
}
Options::Option& Options::Option::placeholder(std::string text) {
  value_name = std::move(text);
  return *this;
}
Options::Option& Options::Option::given(bool* flag) {
  is_given = flag;
  return *this;
}
Options::Option& Options::Option::one_of(std::vector<std::string> names) {
  field = std::move(field).one_of(std::move(names));
  return *this;
}
Options::Option& Options::Option::range(double least, double most) {
  field = std::move(field).range(least, most);
  return *this;
}
Options::Option& Options::Option::at_least(double least) {
  field = std::move(field).at_least(least);
  return *this;
}
Options::Option& Options::Option::above(double limit) {
  field = std::move(field).above(limit);
  return *this;
}
Options::Option& Options::Option::amount() {
  field = std::move(field).amount();
  return *this;
}

Options::Option& Options::add(std::string name, Field::Target target, std::string help) {
  HARMONIC_ASSERT(!name.empty());
  options_.push_back(std::unique_ptr<Option>(new Option(Field(std::move(name), target, std::move(help)))));
  options_.back()->is_positional = options_.back()->field.key.front() != '-';
  options_.back()->field.never_empty = true;
  return *options_.back();
}

Options::Option& Options::add_global(std::string name, Field::Target target, std::string help) {
  Option& option = add(std::move(name), target, std::move(help));
  option.is_global = true;
  return option;
}

void Options::add_settings(std::vector<Override>* overrides, Environment environment) {
  environment_ = environment;
  overrides_ = overrides;
  settings_ = defaults_.fields();
  add("--set", &assignments_, "change settings, as train.lr=3e-3; below are all of them")
      .placeholder("KEY=VALUE...");
}

void Options::add_service_settings(std::vector<Field> fields, std::string section) {
  HARMONIC_ASSERT(!fields.empty());
  add("--config", &service_file_,
      fmt::format(
          "a TOML file with the settings below as its keys ({0} = ...); the environment ({1}) wins over "
          "it, and flags over both",
          fields.front().key, environment_name(section + '.' + fields.front().key)))
      .placeholder("FILE")
      .not_empty();
  service_section_ = std::move(section);
  service_fields_ = std::move(fields);
  for (const Field& field : service_fields_) {
    Field flag = field;
    std::replace(flag.key.begin(), flag.key.end(), '_', '-');
    flag.key.insert(0, "--");
    options_.push_back(std::unique_ptr<Option>(new Option(std::move(flag))));
  }
}

// From the file and the environment.
void Options::set_service_settings() {
  if (!service_file_.empty())
    set_fields(service_fields_, parse_toml(read_file(service_file_, 1 << 20), service_file_), "");
  std::vector<std::string> names;
  for (const Field& field : service_fields_) {
    names.push_back(environment_name(service_section_ + '.' + field.key));
    if (const char* value = std::getenv(names.back().c_str()))
      set_field(field, value, field.key, names.back());
  }
  for (char** entry = environ; !service_section_.empty() && entry && *entry; ++entry) {
    const std::string_view variable = *entry, name = variable.substr(0, variable.find('='));
    if (name.starts_with(environment_name(service_section_) + "_") &&
        std::find(names.begin(), names.end(), name) == names.end())
      fail_usage("environment variable {}: no setting has this name{}", name, did_you_mean(name, names));
  }
}

void Options::parse(const std::vector<std::string>& arguments) {
  for (const auto& option : options_) {
    if (!option->is_global) continue;
    std::string name = option->field.key.substr(2);
    std::replace(name.begin(), name.end(), '-', '_');
    name = environment_name(name);
    if (const char* value = std::getenv(name.c_str()))
      set_field(option->field, value, option->field.key, name);
  }

  CLI::App app;
  app.set_help_flag("");
  app.allow_extras();
  std::vector<CLI::Option*> declared, declared_settings;
  for (const auto& option : options_) declared.push_back(declare(app, option->field.key, option->field));
  for (const Field& field : settings_) declared_settings.push_back(declare(app, "--" + field.key, field));
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string message = error.what();
    fail_usage("{} needs a value", message.substr(0, message.find(':')));
  } catch (const CLI::ParseError& error) {
    throw Error(error.what(), Error::Kind::usage);
  }

  const std::vector<std::string> extras = app.remaining();
  if (!extras.empty()) {
    const auto flag = std::find_if(extras.begin(), extras.end(), [](const std::string& text) {
      return text.size() > 1 && text.front() == '-';
    });
    if (flag == extras.end()) fail_usage("unexpected argument \"{}\"", extras.front());
    std::vector<std::string> names = {"--help"};
    for (const auto& option : options_)
      if (!option->is_positional) names.push_back(option->field.key);
    for (const Field& field : settings_) names.push_back("--" + field.key);
    const std::string name = flag->substr(0, flag->find('='));
    fail_usage("unknown flag {}{}", name, did_you_mean(name, names));
  }

  // The file's name first, since everything else that is given wins over what stands in it.
  for (size_t i = 0; i < options_.size(); ++i)
    if (options_[i]->field.key == "--config" && !service_section_.empty() && declared[i]->count() > 0)
      set_given(options_[i]->field, *declared[i]);
  set_service_settings();
  for (size_t i = 0; i < options_.size(); ++i) {
    const Option& option = *options_[i];
    if (declared[i]->count() > 0) {
      const std::vector<std::string> given = declared[i]->results();
      if (option.refuses_empty && std::find(given.begin(), given.end(), "") != given.end())
        fail_usage("{} is empty: {}", option.field.key, option.field.help);
      set_given(option.field, *declared[i]);
      if (option.is_given) *option.is_given = true;
    } else if (option.is_required) {
      fail_usage("{} is missing: {}", option.field.key, option.field.help);
    }
  }
  if (!overrides_) return;
  for (const std::string& assignment : assignments_) overrides_->push_back({assignment, "--set"});
  for (size_t i = 0; i < settings_.size(); ++i) {
    const Field& field = settings_[i];
    if (declared_settings[i]->count() > 0)
      overrides_->push_back({field.key + '=' + given_text(field, *declared_settings[i]), "--" + field.key});
  }
}

std::string Options::help(std::string_view command, std::string_view summary) const {
  std::string usage = fmt::format("usage: harmonic {}", command), text, global;
  for (const auto& option : options_) {
    const Field& field = option->field;
    std::string flag = field.key;
    const std::string value = option->value_name.empty() ? type_name_of(field) : option->value_name;
    if (!option->is_positional && !is_flag(field)) flag += ' ' + value;
    if (option->is_required || option->is_positional)
      usage += option->is_required ? ' ' + flag : fmt::format(" [{}]", flag);
    std::string line = field.help;
    if (option->is_required) {
      line += " (required)";
    } else if (const std::string standard = text_of(field); !is_flag(field) && !standard.empty()) {
      line += fmt::format(" [{}]", standard);
    }
    (option->is_global ? global : text) += row(flag, line);
  }
  global += row("--help", "show this");
  std::string result = fmt::format("{}\n\n{} [options]\n", summary, usage);
  if (!text.empty()) result += "\noptions:\n" + text;
  result += "\nfor every command (or HARMONIC_THREADS and so on in the environment):\n" + global;
  if (!settings_.empty()) {
    result +=
        environment_ == Environment::counts
            ? "\nsettings, as keys of the TOML file, as --set KEY=VALUE, as flags, or in the environment\n"
              "(--train.lr 3e-3 is HARMONIC_TRAIN_LR=3e-3); later ones win:\n"
            : "\nsettings, as keys of the TOML file, as --set KEY=VALUE, or as flags; later ones win, and "
              "the\n"
              "environment's (HARMONIC_TRAIN_LR) do not count:\n";
    result += row("--set model.preset=NAME",
                  fmt::format("start from a named model: {}", fmt::join(preset_names(), ", ")));
    for (const Field& field : settings_) {
      const std::string standard = text_of(field);
      result += row("--" + field.key + (is_flag(field) ? "[=false]" : " " + type_name_of(field)),
                    field.help + (standard.empty() ? "" : fmt::format(" [{}]", standard)));
    }
  }
  return result;
}

}  // namespace harmonic
