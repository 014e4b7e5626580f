// The options of one command, bound to its variables. Whoever declares options does not see the parser behind
// them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/base/fields.h"
#include "harmonic/train/train_config.h"

namespace harmonic {

class Options {
 public:
  // An option is a Field whose key is the flag; the variable's value when declared is the default that --help
  // shows.
  class Option {
   public:
    Option& required();   // and not empty
    Option& not_empty();  // a text "" is no value, and a mistake in how a script fills it in
    Option& placeholder(std::string text);  // what --help shows for the value: DIR, PATH...
    Option& given(bool* flag);              // set to true when the option stands on the command line
    Option& one_of(std::vector<std::string> names);
    Option& range(double least, double most);
    Option& at_least(double least);
    Option& above(double limit);
    Option& amount();  // 64K, 20M

   private:
    friend class Options;
    explicit Option(Field f) : field(std::move(f)) {}
    Field field;
    bool is_required = false, refuses_empty = false, is_positional = false, is_global = false;
    bool* is_given = nullptr;
    std::string value_name;
  };

  // `name` is a flag, "--max-tokens", or, in capitals, an argument by its place, "PATH". A bool is a flag
  // without a value; a list takes several values, one at least where it is given, and may be given again. The
  // variable must outlive this object. The reference is valid for the lifetime of this object.
  Option& add(std::string name, Field::Target target, std::string help);
  // A flag of every command, which the environment sets too: HARMONIC_THREADS for --threads.
  Option& add_global(std::string name, Field::Target target, std::string help);

  // All settings of a run: --set KEY=VALUE, and every key as a flag of its own (--train.lr 3e-3). What is
  // given is appended to `overrides`, which load_run_config() takes; the defaults shown are those of
  // RunConfig. Whether the environment counts is the command's affair, and said by --help.
  enum class Environment { counts, does_not };
  void add_settings(std::vector<Override>* overrides, Environment environment = Environment::counts);

  // Settings of a service: each field is a flag (--max-tokens of "max_tokens"), a key of the TOML file that
  // --config names, and a variable of the environment (HARMONIC_SERVE_MAX_TOKENS with the section "serve").
  // Flags win over the environment, that over the file.
  void add_service_settings(std::vector<Field> fields, std::string section);

  // Sets the variables from the environment, then from the arguments after the command's name. Throws Error
  // (usage), naming the flag and, for an unknown one, the nearest.
  void parse(const std::vector<std::string>& arguments);

  // The text of --help for `harmonic <command>`.
  std::string help(std::string_view command, std::string_view summary) const;

 private:
  std::vector<std::unique_ptr<Option>> options_;
  void set_service_settings();

  std::vector<Override>* overrides_ = nullptr;
  std::string service_section_, service_file_;
  std::vector<Field> service_fields_;
  Environment environment_ = Environment::counts;
  std::vector<std::string> assignments_;
  RunConfig defaults_;
  std::vector<Field> settings_;  // bound to defaults_
};

}  // namespace harmonic
