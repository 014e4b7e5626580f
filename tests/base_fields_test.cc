#include "harmonic/base/fields.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

struct Settings {
  bool flag = false;
  int64_t count = 3, tokens = 20'000'000;
  double rate = 0.5;
  std::string kind = "a", path = "x";
  std::vector<int64_t> strides = {1, 4};
  std::vector<double> taus = {4, 32};
  std::vector<std::string> names = {"one"};

  std::vector<Field> fields() {
    return {Field("flag", &flag, "a flag"),
            Field("deep.count", &count, "a count").range(0, 10),
            Field("tokens", &tokens, "a budget").amount(),
            Field("rate", &rate, "a rate").above(0, 1),
            Field("kind", &kind, "a kind").one_of({"a", "b"}),
            Field("deep.path", &path, "a path"),
            Field("strides", &strides, "strides").at_least(1),
            Field("taus", &taus, "taus"),
            Field("names", &names, "names")};
  }
  void set(std::string_view key, std::string_view text) {
    const auto all = fields();
    set_field(find_field(all, key, "", "here"), text, key, "here");
  }
};

std::string error_of(const auto& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::usage);
    return error.what();
  }
  return "no error";
}

TEST(Fields, TextSetsEveryType) {
  Settings s;
  s.set("flag", "true");
  s.set("deep.count", "7");
  s.set("rate", "3e-3");
  s.set("kind", "b");
  s.set("deep.path", "12");  // text stays text even when it looks like a number
  s.set("strides", "1,2,8");
  s.set("taus", "[1.5, 2]");
  s.set("names", "['a,b', c]");
  EXPECT_TRUE(s.flag);
  EXPECT_EQ(s.count, 7);
  EXPECT_EQ(s.rate, 3e-3);
  EXPECT_EQ(s.kind, "b");
  EXPECT_EQ(s.path, "12");
  EXPECT_EQ(s.strides, (std::vector<int64_t>{1, 2, 8}));
  EXPECT_EQ(s.taus, (std::vector<double>{1.5, 2}));
  EXPECT_EQ(s.names, (std::vector<std::string>{"a,b", "c"}));
}

TEST(Fields, AListOfTextHasNothingEmptyBetweenItsCommas) {
  Settings s;
  for (const char* text : {"8,", ",8", "8,,16", ",", "8, ,16", "[8,,16]", "[,]"})
    EXPECT_EQ(error_of([&] { s.set("strides", text); }),
              fmt::format("here: strides = \"{}\": an item is empty; expected a list of whole numbers of at "
                          "least 1",
                          text));
  EXPECT_EQ(s.strides, (std::vector<int64_t>{1, 4}));
  s.set("strides", "[8, 16,]");  // as in TOML
  EXPECT_EQ(s.strides, (std::vector<int64_t>{8, 16}));
  s.set("strides", "");
  EXPECT_TRUE(s.strides.empty());
}

TEST(Fields, AListThatIsNeverEmptyRefusesToBe) {
  std::vector<int64_t> list = {3};
  Field field("list", &list, "a list");
  field.never_empty = true;
  for (const char* text : {"", " ", "[]", "[ ]"})
    EXPECT_EQ(error_of([&] { set_field(field, text, "list", "here"); }),
              "here: list is empty: expected a list of whole numbers");
  EXPECT_EQ(list, std::vector<int64_t>{3});
}

TEST(Fields, SwitchesTakeOneAndZeroAsText) {
  Settings s;
  for (const auto& [text, expected] :
       {std::pair{"1", true}, {"0", false}, {"true", true}, {"false", false}}) {
    s.flag = !expected;
    s.set("flag", text);
    EXPECT_EQ(s.flag, expected) << text;
  }
  for (const char* text : {"2", "01", "", "on"})
    EXPECT_NE(error_of([&] { s.set("flag", text); }).find("expected true or false"), std::string::npos)
        << text;
}

TEST(Fields, NumbersOutOfRangeOrNotFiniteAreRefusedAndChangeNothing) {
  Settings s;
  for (const char* text : {"-1", "0", "1.5", "nan", "inf", "-inf", "one", ""}) {
    const std::string error = error_of([&] { s.set("rate", text); });
    EXPECT_NE(error.find("here: rate = "), std::string::npos) << error;
    EXPECT_NE(error.find("expected a number above 0 and at most 1"), std::string::npos) << error;
  }
  EXPECT_EQ(s.rate, 0.5);
  EXPECT_NE(error_of([&] { s.set("deep.count", "11"); }), "no error");
  EXPECT_NE(error_of([&] { s.set("deep.count", "2.5"); }), "no error");
  EXPECT_NE(error_of([&] { s.set("strides", "1,0"); }), "no error");
  EXPECT_NE(error_of([&] { s.set("taus", "1,nan"); }), "no error");
  EXPECT_NE(error_of([&] { s.set("flag", "yes"); }), "no error");
  EXPECT_EQ(s.strides, (std::vector<int64_t>{1, 4}));
}

TEST(Fields, AChoiceOutsideTheAllowedNamesThem) {
  Settings s;
  EXPECT_EQ(error_of([&] { s.set("kind", "c"); }), "here: kind = \"c\": expected one of a, b");
}

TEST(Fields, AnUnknownKeyNamesTheNearest) {
  Settings s;
  const auto all = s.fields();
  EXPECT_EQ(error_of([&] { find_field(all, "rat", "train", "x.toml:1:2"); }),
            "x.toml:1:2: unknown key \"train.rat\"; did you mean \"train.rate\"?");
  EXPECT_EQ(error_of([&] { find_field(all, "count", "", ""); }),
            "unknown key \"count\"; did you mean \"deep.count\"?");
  EXPECT_EQ(error_of([&] { find_field(all, "zzzzzzzz", "", ""); }), "unknown key \"zzzzzzzz\"");
}

TEST(Fields, AScalarStandsForAListOfOneAndBack) {
  Settings s;
  const auto all = s.fields();
  set_fields(all, parse_toml("strides = 2\nnames = \"n\"", "t"), "");
  EXPECT_EQ(s.strides, std::vector<int64_t>{2});
  EXPECT_EQ(inline_text(*values_of(all).find("strides")), "2");
  EXPECT_EQ(inline_text(*values_of(all).find("names")), "\"n\"");
}

TEST(Fields, TomlErrorsNameFileLineAndColumn) {
  Settings s;
  const auto all = s.fields();
  const auto read = [&](std::string_view text) {
    return error_of([&] { set_fields(all, parse_toml(text, "run.toml"), "s"); });
  };
  EXPECT_EQ(read("\n  rate = -1"), "run.toml:2:3: s.rate = -1: expected a number above 0 and at most 1");
  EXPECT_TRUE(
      read("[deep]\nconut = 1").starts_with("run.toml:2:1: unknown key \"s.deep.conut\"; did you mean"));
  EXPECT_TRUE(read("deep = 3").starts_with("run.toml:1:1: [s.deep] is a section"));
  EXPECT_TRUE(read("a = [").starts_with("run.toml:1:"));
  EXPECT_TRUE(read("rate = 1979-05-27").starts_with("run.toml:1:"));
  EXPECT_TRUE(read("rate = 1\nrate = 1").starts_with("run.toml:2:"));
  EXPECT_NE(read("rate = \"0.5\""), "no error");
  EXPECT_NE(read("kind = 1"), "no error");
}

TEST(Fields, TomlAndJsonReadBackWhatWasWritten) {
  Settings s;
  s.rate = 0.1 + 0.2;
  s.rate /= 3;
  s.path = "a \"b\" \\ \n\t\x01 \xc3\xa9";
  s.taus = {1e-300, 128};
  s.strides = {};
  s.flag = true;
  const std::string toml = to_toml(values_of(s.fields())), json = to_json(values_of(s.fields()));
  for (const Value& tree : {parse_toml(toml, "t"), parse_json_value(json, "j")}) {
    Settings t;
    set_fields(t.fields(), tree, "");
    EXPECT_EQ(t.rate, s.rate);
    EXPECT_EQ(t.path, s.path);
    EXPECT_EQ(t.taus, s.taus);
    EXPECT_EQ(t.strides, s.strides);
    EXPECT_EQ(t.flag, s.flag);
    EXPECT_EQ(to_toml(values_of(t.fields())), toml);
  }
}

TEST(Fields, AnyNumberAndTextReadBackToTheBit) {
  EXPECT_TRUE(rc::check([](double number, std::string text, const std::vector<int64_t>& list) {
    RC_PRE(std::isfinite(number));
    for (char& c : text) c = static_cast<char>(c & 0x7f);
    text += "\u00e9\u65e5";
    Value tree{Value::Table{}, ""};
    tree.at("a.number").data = number;
    tree.at("text").data = text;
    Value::List items;
    for (int64_t item : list) items.push_back({item, ""});
    tree.at("list").data = items;
    for (const Value& read : {parse_toml(to_toml(tree), "t"), parse_json_value(to_json(tree), "j")})
      RC_ASSERT(std::get<double>(read.find("a")->find("number")->data) == number &&
                std::get<std::string>(read.find("text")->data) == text &&
                inline_text(*read.find("list")) == inline_text(tree.at("list")));
  }));
}

TEST(Fields, TextThatIsNotUtf8IsRefusedBeforeItIsWritten) {
  Settings s;
  s.path = "caf\xe9.txt";
  EXPECT_EQ(
      error_of([&] { to_toml(values_of(s.fields())); }),
      "path = \"caf\\xe9.txt\": settings are kept as UTF-8, and this is not; give the file another name");
}

TEST(Fields, WhatAProgramPutThereIsCheckedToo) {
  Settings s;
  EXPECT_EQ(error_of([&] { check_fields(s.fields(), "s"); }), "no error");
  s.rate = std::nan("");
  EXPECT_NE(error_of([&] { check_fields(s.fields(), "s"); }).find("s.rate"), std::string::npos);
  s.rate = 1;
  s.kind = "z";
  EXPECT_NE(error_of([&] { check_fields(s.fields(), "s"); }).find("s.kind"), std::string::npos);
}

TEST(Quantity, ReadsSuffixesAsPowersOfAThousand) {
  EXPECT_EQ(parse_quantity("4096"), 4096);
  EXPECT_EQ(parse_quantity("64K"), 64'000);
  EXPECT_EQ(parse_quantity("20M"), 20'000'000);
  EXPECT_EQ(parse_quantity("1.5G"), 1'500'000'000);
  EXPECT_EQ(parse_quantity("0.25T"), 250'000'000'000);
  EXPECT_EQ(parse_quantity("2.0"), 2);
  EXPECT_EQ(parse_quantity("9223372036854775807"), INT64_MAX);
}

TEST(Quantity, RefusesWhatIsNotAWholeNumberInRange) {
  for (const char* text : {"", "K", "-1", "1.5", "1.", ".5K", "1.2.3K", "1KK", "20 M", "0x10", "1e6",
                           "9223372036854775808", "9300000000T", "1.0005K", "nan"})
    EXPECT_NE(error_of([&] { parse_quantity(text); }), "no error") << text;
}

TEST(Quantity, WritesTheSuffixWhereItSaysTheWhole) {
  EXPECT_EQ(quantity_text(0), "0");
  EXPECT_EQ(quantity_text(999), "999");
  EXPECT_EQ(quantity_text(4096), "4096");
  EXPECT_EQ(quantity_text(64'000), "64K");
  EXPECT_EQ(quantity_text(1'500'000'000), "1.5G");
  for (const int64_t quantity : {int64_t{1}, int64_t{12'300}, int64_t{1'234'567}, INT64_MAX})
    EXPECT_EQ(parse_quantity(quantity_text(quantity)), quantity);
}

TEST(NearestName, FindsTransposedAndMissingLettersAndNothingFarAway) {
  EXPECT_EQ(nearest_name("trian", {"eval", "train"}), "train");
  EXPECT_EQ(nearest_name("evl", {"eval", "train"}), "eval");
  EXPECT_EQ(nearest_name("serve", {"eval", "train"}), "");
  EXPECT_EQ(nearest_name(std::string(100'000, 'x'), {"eval"}), "");
}

}  // namespace
}  // namespace harmonic
