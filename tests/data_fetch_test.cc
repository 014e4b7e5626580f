// Corpora are downloaded whole and right, or not at all; an interruption costs nothing.
#include <set>

#include "harmonic/base/random.h"
#include "harmonic/data/corpus_fetch.h"
#include "tests/data_fixture.h"
#include "tests/interrupted_child.h"
#include "tests/loopback_server.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

uintmax_t size_of(const fs::path& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class CorpusFetch : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    const Random random(1, 2);
    for (uint64_t i = 0; i < 300'000; ++i) content_ += static_cast<char>('a' + random.below(i, 26));
    corpus_.name = "made-up";
    corpus_.file = "text.txt";
    corpus_.bytes = static_cast<int64_t>(content_.size());
    corpus_.sha256 = sha256(content_);
    corpus_.addresses = {"http://127.0.0.1:1/nobody/listens"};
    corpus_.by_hand = "the library";
  }

  std::vector<fs::path> fetch(const LoopbackServer& server, const std::string& split = "") const {
    return fetch_corpus(corpus_, {path("out"), server.address(), split});
  }
  std::string fetch_error(const LoopbackServer& server) const {
    return error_of([&] { fetch(server); });
  }
  bool there(const std::string& name) const { return fs::exists(path("out/" + name)); }

  std::string content_;
  Corpus corpus_;
};

TEST_F(CorpusFetch, AFileComesWholeAndIsNotAskedForAgain) {
  const LoopbackServer server({.content = content_});
  EXPECT_EQ(fetch(server), (std::vector<fs::path>{path("out/text.txt")}));
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  EXPECT_FALSE(there("text.txt.part"));
  ASSERT_EQ(server.requests().size(), 1u);
  EXPECT_TRUE(server.requests()[0].starts_with("GET /text.txt HTTP/")) << server.requests()[0];
  const auto written = fs::last_write_time(path("out/text.txt"));
  fetch(server);
  EXPECT_EQ(server.requests().size(), 1u);
  EXPECT_EQ(fs::last_write_time(path("out/text.txt")), written);
}

TEST_F(CorpusFetch, ATransferThatBreaksOffGoesOnWhereItWas) {
  const LoopbackServer server({.content = content_, .most = 100'000});
  fetch(server);
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  const std::vector<std::string> requests = server.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_FALSE(contains(requests[0], "Range:"));
  EXPECT_TRUE(contains(requests[1], "Range: bytes=100000-")) << requests[1];
  EXPECT_TRUE(contains(requests[2], "Range: bytes=200000-")) << requests[2];
}

TEST_F(CorpusFetch, HalfAFileThatIsThereIsGoneOnWith) {
  file("out/text.txt.part", content_.substr(0, 150'000));
  const LoopbackServer server({.content = content_});
  fetch(server);
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  ASSERT_EQ(server.requests().size(), 1u);
  EXPECT_TRUE(contains(server.requests()[0], "Range: bytes=150000-")) << server.requests()[0];
}

TEST_F(CorpusFetch, AWholePartIsCheckedAndNothingIsAsked) {
  file("out/text.txt.part", content_);
  const LoopbackServer server({.content = content_});
  fetch(server);
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(CorpusFetch, AServerWithoutRangesIsAskedFromTheStart) {
  file("out/text.txt.part", content_.substr(0, 150'000));
  const LoopbackServer server({.content = content_, .ranges = false});
  fetch(server);
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST_F(CorpusFetch, AServerWithoutRangesThatBreaksOffIsGivenUp) {
  const LoopbackServer server({.content = content_, .ranges = false, .most = 100'000});
  EXPECT_TRUE(contains(fetch_error(server), "curl: (18)"));
  EXPECT_EQ(server.requests().size(), 3u);
  EXPECT_FALSE(there("text.txt"));
}

TEST_F(CorpusFetch, AMissingFileIsAnErrorThatSaysWhereElseToGetIt) {
  const LoopbackServer server({.content = "", .missing = true});
  const std::string error = fetch_error(server);
  for (const std::string& part : {server.address("text.txt"), std::string("404"), std::string("--mirror"),
                                  std::string("the library"), corpus_.sha256, path("out/text.txt")})
    EXPECT_TRUE(contains(error, part)) << part << " in " << error;
  EXPECT_FALSE(there("text.txt") || there("text.txt.part"));
}

TEST_F(CorpusFetch, WrongBytesAreShownAndKeptNowhere) {
  std::string wrong = content_;
  wrong[1000] = '?';
  LoopbackServer server({.content = wrong});
  const std::string error = fetch_error(server);
  EXPECT_TRUE(contains(error, "expected SHA-256 " + corpus_.sha256 + ", found " + sha256(wrong))) << error;
  EXPECT_TRUE(contains(error, "was removed: try again")) << error;
  EXPECT_FALSE(there("text.txt") || there("text.txt.part"));
  for (const std::string& other : {std::string("log in first"), content_ + "and more"}) {
    server.change({.content = other});
    EXPECT_TRUE(contains(fetch_error(server), "it is another file")) << other.size();
    EXPECT_FALSE(there("text.txt"));
  }
  server.change({.content = content_});
  fetch(server);
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
}

TEST_F(CorpusFetch, AnotherFileInItsPlaceIsLeftAlone) {
  file("out/text.txt", "my own");
  const LoopbackServer server({.content = content_});
  const std::string error = fetch_error(server);
  EXPECT_TRUE(contains(error, "expected 300000 bytes, found 6")) << error;
  EXPECT_TRUE(contains(error, "move it away")) << error;
  EXPECT_EQ(read_file(path("out/text.txt")), "my own");
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(CorpusFetch, TheNextAddressIsTriedWhereOneFails) {
  LoopbackServer broken({.content = "", .missing = true}), server({.content = content_});
  corpus_.addresses = {broken.address("a"), server.address("b")};
  fetch_corpus(corpus_, {path("out"), "", ""});
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  EXPECT_EQ(broken.requests().size(), 1u);
}

TEST_F(CorpusFetch, AStopLeavesThePartWhichTheNextCallGoesOnWith) {
  LoopbackServer server;
  const std::string part = path("out/text.txt.part");
  const pid_t child = ::fork();
  if (child == 0) {
    watch_for_interrupts();
    try {
      fetch(server);
    } catch (const Interrupted&) {
      ::_exit(0);
    } catch (...) {
    }
    ::_exit(1);
  }
  server.start({.content = content_, .hang_after = 120'000});
  for (int i = 0; i < 3000 && size_of(part) < 100'000; ++i) ::usleep(10'000);
  ::kill(child, SIGTERM);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  const std::string kept = read_file(part);  // curl itself holds back what makes no full block yet
  EXPECT_TRUE(kept.size() >= 100'000 && content_.starts_with(kept)) << kept.size();
  EXPECT_FALSE(there("text.txt"));
  server.change({.content = content_});
  fetch(server);
  EXPECT_TRUE(read_file(path("out/text.txt")) == content_);
  EXPECT_TRUE(contains(server.requests().back(), "Range: bytes=" + std::to_string(kept.size()) + "-"))
      << server.requests().back();
}

class PackedCorpusFetch : public CorpusFetch {
 protected:
  void SetUp() override {
    CorpusFetch::SetUp();
    packed_ = read_file(
        zipped("made.zip", {{"made/readme", "no text"}, {"made/whole", content_}, {"made/more", "x"}}));
    corpus_.file = "made.zip";
    corpus_.bytes = static_cast<int64_t>(packed_.size());
    corpus_.sha256 = sha256(packed_);
    corpus_.members = {{"made/whole", "whole", 300'000, sha256(content_)}, {"made/more", "more.txt", 0, ""}};
    corpus_.splits = {{"2/1", {{"train.txt", 0, 200'000}, {"test.txt", 200'000, 100'000}}},
                      {"1/1", {{"first.txt", 0, 150'000}, {"second.txt", 150'000, 150'000}}}};
  }
  std::string packed_;
};

TEST_F(PackedCorpusFetch, IsUnpackedAndDividedAsAsked) {
  const LoopbackServer server({.content = packed_});
  EXPECT_EQ(fetch(server), (std::vector<fs::path>{path("out/train.txt"), path("out/test.txt")}));
  EXPECT_TRUE(read_file(path("out/whole")) == content_);
  EXPECT_EQ(read_file(path("out/more.txt")), "x");
  EXPECT_TRUE(read_file(path("out/train.txt")) == content_.substr(0, 200'000));
  EXPECT_TRUE(read_file(path("out/test.txt")) == content_.substr(200'000));
  EXPECT_EQ(fetch(server, "1/1"), (std::vector<fs::path>{path("out/first.txt"), path("out/second.txt")}));
  EXPECT_TRUE(read_file(path("out/second.txt")) == content_.substr(150'000));
  EXPECT_EQ(server.requests().size(), 1u);
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(path("out"))) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{".fetch-lock", "first.txt", "made.zip", "more.txt", "second.txt",
                                          "test.txt", "train.txt", "whole"}));
  EXPECT_TRUE(contains(error_of([&] { fetch(server, "3/1"); }), "expected 2/1 or 1/1"));
}

TEST_F(PackedCorpusFetch, MakesWhatIsMissingAndLeavesWhatIsThere) {
  const LoopbackServer server({.content = packed_});
  fetch(server);
  const auto written = fs::last_write_time(path("out/whole")),
             divided = fs::last_write_time(path("out/test.txt"));
  fs::remove(path("out/more.txt"));
  fs::remove(path("out/train.txt"));
  fetch(server);
  EXPECT_EQ(fs::last_write_time(path("out/whole")), written);
  EXPECT_EQ(fs::last_write_time(path("out/test.txt")), divided);
  EXPECT_EQ(read_file(path("out/more.txt")), "x");
  EXPECT_TRUE(read_file(path("out/train.txt")) == content_.substr(0, 200'000));
}

// Whoever put it there: a user's own text may have that name.
TEST_F(PackedCorpusFetch, LeavesFilesOfAnotherContentAlone) {
  const LoopbackServer server({.content = packed_});
  for (const char* name : {"whole", "more.txt", "train.txt"}) {
    fs::remove_all(path("out"));
    file(std::string("out/") + name, "mine");
    const std::string error = fetch_error(server);
    EXPECT_TRUE(contains(error, std::string(name) + ": is there with another content")) << error;
    EXPECT_EQ(read_file(path(std::string("out/") + name)), "mine");
    EXPECT_FALSE(there(std::string(name) + ".part"));
  }
}

TEST_F(PackedCorpusFetch, AMemberThatIsNotWhatItShouldBeGetsNoPlace) {
  corpus_.members[0].sha256 = std::string(64, '0');
  const LoopbackServer server({.content = packed_});
  EXPECT_TRUE(contains(fetch_error(server), "expected SHA-256 000"));
  EXPECT_FALSE(there("whole") || there("train.txt"));
  corpus_.members[0].member = "made/other";
  EXPECT_TRUE(contains(fetch_error(server), "holds no member made/other"));
}

TEST(Corpora, EachHasWhatItNeeds) {
  std::set<std::string> names;
  for (const Corpus& corpus : corpora()) {
    EXPECT_TRUE(names.insert(corpus.name).second) << corpus.name;
    EXPECT_FALSE(corpus.about.empty() || corpus.by_hand.empty()) << corpus.name;
    EXPECT_NO_THROW(document_format_of(corpus.format));
    if (corpus.addresses.empty()) {
      const std::string error = error_of([&] { fetch_corpus(corpus, {"unused", "", ""}); });
      EXPECT_TRUE(contains(error, corpus.by_hand)) << error;
      continue;
    }
    for (const std::string& address : corpus.addresses)
      EXPECT_TRUE(address.ends_with("/" + corpus.file)) << address;
    EXPECT_GT(corpus.bytes, 0) << corpus.name;
    EXPECT_EQ(corpus.sha256.size(), 64u) << corpus.name;
    EXPECT_EQ(corpus.sha256.find_first_not_of("0123456789abcdef"), std::string::npos) << corpus.name;
    for (const CorpusSplit& split : corpus.splits) {
      int64_t end = 0;  // parts lie side by side and are all of the text
      for (const CorpusPart& part : split.parts) {
        EXPECT_EQ(part.begin, end) << corpus.name << " " << part.file;
        end += part.bytes;
      }
      EXPECT_EQ(end, corpus.members.at(0).bytes) << corpus.name << " " << split.name;
    }
  }
  EXPECT_TRUE(contains(error_of([] { corpus_named("enwik7"); }), "there are enwik8, "));
}

}  // namespace
}  // namespace harmonic
