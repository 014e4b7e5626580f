// harmonic score, as a child process.
#include <gtest/gtest.h>

#include "harmonic/base/json.h"
#include "tests/cli_process.h"
#include "tests/sentencepiece_fixture.h"

namespace harmonic {
namespace {

// Two documents; lines of every kind, bytes that are no UTF-8, tokens that reach over line breaks.
std::string mixed_text() {
  std::string text = "if (the count) {\n    return the count;\n  }\n\n\n\xe6\x97\xa5\xe6\x9c\xac\n";
  text += "\xff\xc3(\n\ttail of the first";
  text += '\0';
  for (int i = 0; i < 60; ++i) text += "the  other \r\n\n of the 1990s it's\n";
  return text + "no newline at the end";
}

class Score : public ::testing::Test {
 protected:
  Score()
      : bytes_(make_model_folder(folder_ / "bytes", *make_byte_tokenizer())),
        bpe_(make_model_folder(folder_ / "bpe", *small_bpe())),
        pieces_(make_model_folder(folder_ / "pieces", *small_sentencepiece())) {}

  static std::vector<std::string> arguments(const std::string& model, const std::string& by,
                                            bool json = false) {
    std::vector<std::string> words = {"score", "--model", model, "--by", by, "--threads", "1"};
    if (json) words.push_back("--json");
    return words;
  }
  static std::string score(const std::string& model, const std::string& by, std::string_view text) {
    const Outcome outcome = run_with_input(arguments(model, by), text);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  }
  static std::vector<Json> score_json(const std::string& model, const std::string& by,
                                      std::string_view text) {
    const Outcome outcome = run_with_input(arguments(model, by, true), text);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    std::vector<Json> objects;
    for (const std::string& line : lines_of(outcome.out))
      objects.push_back(parse_json(line, "standard output"));
    return objects;
  }
  static double sum_of(const std::vector<Json>& objects, const char* key) {
    double sum = 0;
    for (const Json& object : objects) sum += object.at(key).get<double>();
    return sum;
  }

  TemporaryFolder folder_;
  std::string bytes_, bpe_, pieces_;
};

TEST_F(Score, GivesTheSameOutputHoweverThePipeHandsTheTextOver) {
  const std::string text = mixed_text();
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    for (const char* by : {"line", "token", "document"}) {
      const std::string expected = score(model, by, text);
      for (const size_t size : {1, 7, 100}) {
        HarmonicProcess process(arguments(model, by));
        for (size_t begin = 0, pauses = 0; begin < text.size(); begin += size) {
          process.write(std::string_view(text).substr(begin, size));
          if (begin % 97 < size && pauses++ < 20) std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        process.close_input();
        EXPECT_EQ(process.wait().out, expected) << by << ", in pieces of " << size;
      }
    }
  }
}

TEST_F(Score, GivesTheSameOutputWithAnyNumberOfThreads) {
  const std::string text = mixed_text(), expected = score(bytes_, "token", text);
  std::vector<std::string> words = arguments(bytes_, "token");
  words.back() = "2";
  EXPECT_EQ(run_with_input(words, text).out, expected);
}

TEST_F(Score, TokensLinesAndDocumentsAddUpToTheSame) {
  const std::string text = mixed_text();
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    const std::vector<Json> tokens = score_json(model, "token", text),
                            lines = score_json(model, "line", text),
                            documents = score_json(model, "document", text);
    ASSERT_EQ(documents.size(), 2u);
    double ends = 0;  // of the two documents: of no line
    for (const Json& token : tokens)
      // The space that leads a text of pieces is no text either.
      if (token.at("text") == "" && (model != pieces_ || token.at("token") == 2))
        ends += token.at("bits").get<double>();
    EXPECT_NEAR(sum_of(tokens, "bits"), sum_of(documents, "bits"), 1e-3);
    EXPECT_NEAR(sum_of(lines, "bits") + ends, sum_of(documents, "bits"), 1e-3);
    EXPECT_EQ(sum_of(documents, "bytes"), static_cast<double>(text.size()) + 1);  // a NUL, and the end
    EXPECT_EQ(sum_of(lines, "bytes"), static_cast<double>(text.size()) - 1);
  }
}

TEST_F(Score, IsWhatEvalMeasures) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "if (the count) {\n    return  the count;\n\n  }\n";
  const std::string file = folder_.file("text.txt", text), json = folder_ / "eval.json";
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    const Outcome outcome = run_harmonic(
        {"eval", "--model", model, "--data", file, "--lengths", "1000000", "--json", json, "--threads", "1"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const double expected = parse_json(read_file(json), json)["results"][0]["bits_per_byte"].get<double>();
    EXPECT_NEAR(score_json(model, "document", text)[0]["bits_per_byte"].get<double>(), expected, 1e-8);
  }
}

TEST_F(Score, EmptyDocumentsArePassedOverAsByEval) {
  const std::string nul(1, '\0'), one = "if (the count)", two = "return the count;\n";
  for (const std::string& text :
       {one + nul + nul + two, nul + one + nul + two + nul + nul + nul, nul + nul + one + nul + two}) {
    const std::string file = folder_.file("text.txt", text), json = folder_ / "eval.json";
    for (const std::string& model : {bytes_, bpe_, pieces_}) {
      const Outcome outcome =
          run_harmonic({"eval", "--model", model, "--data", file, "--state", "carry", "--format", "nul",
                        "--lengths", "7", "--json", json, "--threads", "1"});
      ASSERT_EQ(outcome.status, 0) << outcome.err;
      const Json result = parse_json(read_file(json), json)["results"][0];
      const std::vector<Json> documents = score_json(model, "document", text);
      ASSERT_EQ(documents.size(), 2u);
      EXPECT_EQ(documents[1]["document"], 2);
      const double bytes = result["bytes"], rate = result["bits_per_byte"];
      EXPECT_EQ(sum_of(documents, "bytes"), bytes);
      EXPECT_NEAR(sum_of(documents, "bits"), rate * bytes, 1e-5);
    }
  }
}

TEST_F(Score, OfALongTextWithoutASpaceHasTheTokensOfEval) {
  std::string text;
  while (text.size() < 200'000) text += "{\"the\":[1990,-1.5e7],\"count\":{\"return\":null}},";
  const std::string file = folder_.file("text.txt", text), json = folder_ / "eval.json";
  ASSERT_EQ(
      run_harmonic({"eval", "--model", bpe_, "--data", file, "--state", "carry", "--json", json}).status, 0);
  const Json result = parse_json(read_file(json), json)["results"][0];
  EXPECT_EQ(static_cast<double>(score_json(bpe_, "token", text).size()), result["tokens"].get<double>());
}

TEST_F(Score, JsonHasTheKeysThatOthersBuildOn) {
  const std::string text = "one\ntwo \xff\n";
  const std::vector<Json> lines = score_json(bytes_, "line", text);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["line"], 2);
  EXPECT_EQ(lines[1]["bytes"], 6);
  EXPECT_GT(lines[1]["bits"], 0);
  const std::vector<Json> tokens = score_json(bytes_, "token", text);
  ASSERT_EQ(tokens.size(), text.size() + 1);
  EXPECT_EQ(tokens[0]["token"], 'o');
  EXPECT_EQ(tokens[0]["text"], "o");
  EXPECT_EQ(tokens[8]["text"], "\xef\xbf\xbd");  // no UTF-8
  EXPECT_EQ(tokens.back()["token"], 0);
  const std::vector<Json> documents = score_json(bytes_, "document", text);
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_EQ(documents[0]["document"], 1);
  EXPECT_EQ(documents[0]["bytes"], text.size() + 1);
  EXPECT_NEAR(documents[0]["bits_per_byte"].get<double>(),
              documents[0]["bits"].get<double>() / static_cast<double>(text.size() + 1), 1e-6);
}

TEST_F(Score, ANulByteBeginsADocumentThatKnowsNothingOfTheOneBefore) {
  const std::string first = "the first document\n", second = "and the second";
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    const auto alone = score_json(model, "document", second)[0];
    const auto both = score_json(model, "document", first + '\0' + second);
    ASSERT_EQ(both.size(), 2u);
    EXPECT_EQ(both[0]["bits"], score_json(model, "document", first)[0]["bits"]);
    EXPECT_EQ(both[1]["bits"], alone["bits"]);
    EXPECT_EQ(score_json(model, "document", first + '\0' + second + '\0').size(), 2u);
  }
}

TEST_F(Score, ALineOf200KilobytesIsOneLine) {
  std::string text(200'000, 'e');
  for (size_t i = 0; i < text.size(); i += 7919) text[i] = ' ';
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    const std::vector<Json> lines = score_json(model, "line", "a\n" + text);
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_EQ(lines[1]["bytes"], text.size());
    EXPECT_NEAR(lines[1]["bits"].get<double>(),
                sum_of(score_json(model, "token", "a\n" + text), "bits") - lines[0]["bits"].get<double>() -
                    score_json(model, "token", "a\n" + text).back()["bits"].get<double>(),
                1);
  }
  const std::string shown = score(bytes_, "line", text + "\nb\n");
  EXPECT_EQ(lines_of(shown).size(), 2u);
  EXPECT_LT(shown.size(), 100'000u) << "a long line is shown cut";
}

TEST_F(Score, PlainLinesAreShownAsTheyAre) {
  const std::vector<std::string> lines = lines_of(score(bytes_, "line", "first\n\nthird"));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(lines[0].ends_with("\t6\tfirst"));
  EXPECT_TRUE(lines[1].ends_with("\t1\t"));
  EXPECT_TRUE(lines[2].ends_with("\t5\tthird"));
}

TEST_F(Score, AnyBytesAreAText) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += static_cast<char>(1 + i * 7919 % 255);
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    EXPECT_EQ(score_json(model, "document", text)[0]["bytes"], text.size() + 1);
    EXPECT_EQ(sum_of(score_json(model, "line", text), "bytes"), static_cast<double>(text.size()));
  }
}

TEST_F(Score, InputWithoutTextIsAnError) {
  for (const std::string& text : {std::string(), std::string(300, '\0')}) {
    const Outcome outcome = run_with_input(arguments(bytes_, "line"), text);
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("harmonic: error: standard input: holds no text")) << outcome.err;
  }
}

TEST_F(Score, ALineIsReportedBeforeTheInputEnds) {
  HarmonicProcess by_bytes(arguments(bytes_, "line"));
  by_bytes.write("a line\n");
  EXPECT_TRUE(by_bytes.shows("a line\n"));
  HarmonicProcess by_words(arguments(bpe_, "line"));
  by_words.write("a line\nand another ");  // whose beginning could have been one token with the line break
  EXPECT_TRUE(by_words.shows("a line\n"));
}

// While it waits for input, and while it works on what fills the pipe.
TEST_F(Score, AnInterruptLeavesTheWholeResultsOfWhatWasScored) {
  std::string text;
  for (int i = 0; text.size() < 600'000; ++i) text += "the line " + std::to_string(i) + " of the count\n";
  for (const char* by : {"line", "token"}) {
    const std::string expected = score(bytes_, by, text);
    for (const int signal_number : {SIGINT, SIGTERM}) {
      for (const size_t given : {size_t{50'005}, text.size() - 5}) {  // within a line
        HarmonicProcess process(arguments(bytes_, by));
        process.write(std::string_view(text).substr(0, given));
        ASSERT_TRUE(process.shows_more_than(0));
        process.interrupt(signal_number);
        const Outcome outcome = process.wait();
        EXPECT_EQ(outcome.status, 130);
        EXPECT_EQ(outcome.err, "harmonic: error: interrupted\n");
        EXPECT_TRUE(outcome.out.ends_with('\n'));
        EXPECT_LT(outcome.out.size(), expected.size());
        EXPECT_TRUE(expected.starts_with(outcome.out)) << by;
      }
    }
  }
}

// Megabytes of `piece`; the peak of the program's memory in KB when it has read them all.
int64_t peak_of_scoring(const std::vector<std::string>& words, const std::string& piece, int megabytes) {
  HarmonicProcess process(words);
  for (size_t written = 0; written < static_cast<size_t>(megabytes) << 20; written += piece.size())
    process.write(piece);
  process.close_input();
  int64_t peak = 0;
  for (int64_t now; (now = process.peak_memory()) > 0;) {
    peak = std::max(peak, now);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(process.wait().status, 0);
  return peak;
}

TEST_F(Score, TakesTheSameMemoryForMegabytesOfAnyText) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps freed memory";
#endif
  struct Kind {
    std::string model, by, piece;
    int few, many;
  };
  std::string prose;
  for (int i = 0; i < 1000; ++i) prose += "the count of the other 1990s is more\n";
  const std::vector<Kind> kinds = {{bytes_, "document", prose, 1, 10},
                                   {bytes_, "line", std::string(50'000, 'x'), 1, 3},
                                   {bpe_, "line", std::string(50'000, '\n'), 1, 3},
                                   {bpe_, "document", std::string(50'000, 'e'), 1, 3}};
  for (const Kind& kind : kinds) {
    const int64_t few = peak_of_scoring(arguments(kind.model, kind.by), kind.piece, kind.few);
    const int64_t many = peak_of_scoring(arguments(kind.model, kind.by), kind.piece, kind.many);
    EXPECT_GT(few, 1000);
    EXPECT_LT(many, few + 2000) << "KB, " << kind.by << " of " << kind.piece.substr(0, 10);
  }
}

// Lines of a kind, and at the end of each half one of another.
std::string log_half(int half) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += "the count of " + std::to_string(1990 + i % 7) + " is other\n";
  return text + (half == 0 ? "\xff\xfe\xfd\xc3\x80\n" : "~~~~ \x01\x02\x03 ~~~~\n");
}

TEST_F(Score, OnlySurprisingLinesAreShownAboveAThreshold) {
  const auto with_threshold = [&](const char* threshold) {
    std::vector<std::string> words = arguments(bytes_, "line", true);
    words.insert(words.end(), {"--threshold", threshold});
    return lines_of(run_with_input(words, log_half(0) + log_half(1)).out);
  };
  const std::vector<std::string> all = with_threshold("z=-1e9"), few = with_threshold("z=1");
  EXPECT_EQ(all.size(), 122u - 30) << "the first ones are never shown, however low the threshold";
  EXPECT_EQ(parse_json(all.front(), "a line").at("line"), 31);
  EXPECT_LT(few.size(), all.size());
  size_t shown = 0;
  for (const std::string& line : all) {
    const double z = parse_json(line, "a line").at("z");
    if (z < 1) continue;
    ASSERT_LT(shown, few.size());
    EXPECT_EQ(few[shown++], line);
  }
  EXPECT_EQ(shown, few.size());
  EXPECT_GT(shown, 0u);
  for (const char* wrong : {"4", "z=", "z=x", "z=4x", "z=inf", "y=1"}) {
    std::vector<std::string> words = arguments(bytes_, "line");
    words.insert(words.end(), {"--threshold", wrong});
    EXPECT_EQ(run_with_input(words, "text\n").status, 2) << wrong;
  }
  std::vector<std::string> words = arguments(bytes_, "token");
  words.insert(words.end(), {"--threshold", "z=1"});
  EXPECT_EQ(run_with_input(words, "text\n").status, 2);
}

TEST_F(Score, AStateThatAnotherRunGoesOnFromIsRefused) {
  std::vector<std::string> words = arguments(bytes_, "line", true);
  words.insert(words.end(), {"--state", folder_ / "state"});
  HarmonicProcess first(words);
  first.write("a line\nand another\n");
  ASSERT_TRUE(first.shows("\"line\":1,"));
  const Outcome second = run_with_input(words, "a line\n");
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.err.find("another harmonic score"), std::string::npos) << second.err;
  first.close_input();
  EXPECT_EQ(first.wait().status, 0);
  EXPECT_EQ(run_with_input(words, "a line\n").status, 0);
}

TEST_F(Score, AFolderForItsStateIsRefusedAndNothingLeftBesideIt) {
  std::filesystem::create_directory(folder_ / "folder");
  const auto before = folder_.snapshot();
  std::vector<std::string> words = arguments(bytes_, "line", true);
  words.insert(words.end(), {"--state", folder_ / "folder"});
  const Outcome outcome = run_with_input(words, "a line\n");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("is a folder"), std::string::npos) << outcome.err;
  EXPECT_EQ(folder_.snapshot(), before);
}

TEST_F(Score, GoesOnFromItsStateAfterAnEndAKillAndAnInterrupt) {
  for (const std::string& model : {bytes_, bpe_, pieces_}) {
    const auto words = [&](const std::string& state) {
      std::vector<std::string> all = arguments(model, "line", true);
      all.insert(all.end(), {"--threshold", "z=-1e9", "--state", state});
      return all;
    };
    const std::string whole = folder_ / "whole";
    std::filesystem::remove(whole);
    const std::string expected = run_with_input(words(whole), log_half(0) + log_half(1)).out;
    ASSERT_GE(lines_of(expected).size(), 121u - 30);
    for (const int how : {0, SIGTERM, SIGKILL}) {
      const std::string state = folder_ / "state";
      std::filesystem::remove(state);
      HarmonicProcess process(words(state));
      process.write(log_half(0));
      if (how == 0) {
        process.close_input();
      } else {
        // Once the state has been saved after all of it.
        ASSERT_TRUE(process.shows("\"line\":58,"));
        const auto saved = [&] { return std::filesystem::exists(state) ? read_file(state) : std::string(); };
        std::string before;
        for (int i = 0; i < 100 && (before.empty() || saved() != before); ++i) {
          before = saved();
          std::this_thread::sleep_for(std::chrono::milliseconds(600));
        }
        process.interrupt(how);
      }
      const Outcome first = process.wait();
      if (how == SIGTERM) {
        EXPECT_EQ(first.status, 130) << first.err;
      }
      const Outcome second = run_with_input(words(state), log_half(1));
      EXPECT_EQ(second.status, 0) << second.err;
      EXPECT_EQ(first.out + second.out, expected) << how;
      EXPECT_EQ(read_file(state) == read_file(whole), true) << how;
    }
  }
}

}  // namespace
}  // namespace harmonic
