#include <gtest/gtest.h>

#include "harmonic/data/text_file.h"
#include "tests/cli_process.h"
#include "tests/cli_program.h"
#include "tests/loopback_server.h"

namespace harmonic {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(DataFetch, ListsTheCorporaAndNamesThemWhereNoneIsKnown) {
  const Outcome list = run_harmonic({"data", "fetch", "--list"});
  EXPECT_EQ(list.status, 0) << list.err;
  for (const char* text : {"enwik8", "36445475 bytes", "wikitext-103-raw", "lambada", "pg19", "by hand"})
    EXPECT_TRUE(contains(list.out, text)) << text << " in " << list.out;
  const Outcome none = run_harmonic({"data", "fetch"}), unknown = run_harmonic({"data", "fetch", "enwik"});
  EXPECT_EQ(none.status, 2);
  EXPECT_TRUE(contains(none.err, "--list shows them")) << none.err;
  EXPECT_EQ(unknown.status, 2);
  EXPECT_TRUE(contains(unknown.err, "there are enwik8, wikitext-103-raw")) << unknown.err;
  EXPECT_EQ(run_harmonic({"data", "fetch", "enwik8", "--split", "80/20"}).status, 2);
}

TEST(DataFetch, WithoutCurlItSaysHowToGetIt) {
  TemporaryFolder folder;
  const Outcome outcome =
      run_harmonic({"data", "fetch", "lambada", "--out", folder / "out"}, {"PATH=/nonexistent"});
  EXPECT_EQ(outcome.status, 1);
  for (const char* text : {"cannot start curl", "apt-get install curl", "by hand", "lambada_test.jsonl"})
    EXPECT_TRUE(contains(outcome.err, text)) << text << " in " << outcome.err;
}

TEST(DataFetch, SigtermEndsItWith130AndKeepsWhatHasCome) {
  TemporaryFolder folder;
  const LoopbackServer server({.content = std::string(1'819'752, 'x'), .hang_after = 100'000});
  HarmonicProcess process(
      {"data", "fetch", "lambada", "--out", folder / "out", "--mirror", server.address()});
  const std::filesystem::path part = folder / "out/lambada_test.jsonl.part";
  const auto size = [&] {
    std::error_code error;
    const uintmax_t bytes = std::filesystem::file_size(part, error);
    return error ? 0 : bytes;
  };
  for (int i = 0; i < 3000 && size() < 90'000; ++i) ::usleep(10'000);
  process.interrupt(SIGTERM);
  EXPECT_EQ(process.wait().status, 130);
  EXPECT_GE(size(), 90'000u);
  EXPECT_FALSE(std::filesystem::exists(folder / "out/lambada_test.jsonl"));
}

TEST(DataFetch, LambadaFromAMirrorIsThePublishedFile) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (!data) GTEST_SKIP() << "HARMONIC_DATA is not set";
  TemporaryFolder folder;
  const LoopbackServer server({.content = read_text(std::string(data) + "/lambada/lambada_test.jsonl.xz")});
  const Outcome outcome =
      run_harmonic({"data", "fetch", "lambada", "--out", folder / "out", "--mirror", server.address()});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(contains(outcome.out, "lambada_test.jsonl  1819752 bytes")) << outcome.out;
}

}  // namespace
}  // namespace harmonic
