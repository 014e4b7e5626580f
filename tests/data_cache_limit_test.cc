// The cache of prepared corpora keeps within its limit, and to what is its own.
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>

#include "harmonic/data/corpus_cache.h"
#include "tests/data_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

class CacheLimit : public DataTest {
 protected:
  // About 200,000 bytes in the cache: 2 a token.
  static constexpr size_t kTextBytes = 100'000;
  static constexpr double kRoomForTwo = 0.0005;  // GB

  // The corpus of a text that says `letter`; what it is in the cache by that name.
  TokenCorpus load(char letter, double gigabytes, const Tokenizer& tokenizer = TinyTokenizer()) {
    const std::string input = path(std::string(1, letter));
    if (!fs::exists(input))
      write_file(input, std::string(kTextBytes, letter));  // its time is part of the key
    TokenCorpus corpus = load_corpus({input}, tokenizer, pool_, {}, {path("cache"), gigabytes});
    const std::string key = preparation_key({input}, tokenizer, {});
    names_[key.substr(0, 32)] = letter;
    return corpus;
  }
  // The letters of the corpora in the cache, by their order; what has another name as "?".
  std::string cached() const {
    std::string letters;
    for (const auto& entry : fs::directory_iterator(path("cache"))) {
      const auto found = names_.find(entry.path().filename());
      letters += found == names_.end() ? '?' : found->second;
    }
    std::sort(letters.begin(), letters.end());
    return letters;
  }
  // As if it were so long ago that it was last used.
  void age(char letter, int hours) const {
    for (const auto& [name, known] : names_)
      if (known == letter)
        fs::last_write_time(fs::path(path("cache")) / name,
                            fs::file_time_type::clock::now() - std::chrono::hours(hours));
  }

  ThreadPool pool_{1};
  std::map<std::string, char> names_;
};

TEST_F(CacheLimit, ANewCorpusTakesThePlaceOfTheLeastRecentlyUsed) {
  load('a', kRoomForTwo);
  load('b', kRoomForTwo);
  EXPECT_EQ(cached(), "ab");
  age('a', 2);
  age('b', 3);
  load('c', kRoomForTwo);
  EXPECT_EQ(cached(), "ac");
  load('d', kRoomForTwo / 1000);  // less than it takes by itself
  EXPECT_EQ(cached(), "d");
}

TEST_F(CacheLimit, ToFindACorpusIsToUseIt) {
  load('a', kRoomForTwo);
  load('b', kRoomForTwo);
  age('a', 3);
  age('b', 2);
  load('a', kRoomForTwo);
  load('c', kRoomForTwo);
  EXPECT_EQ(cached(), "ac");
}

TEST_F(CacheLimit, NothingIsRemovedWithoutALimitOrWithoutANewCorpus) {
  for (const char letter : {'a', 'b', 'c', 'd'}) load(letter, 0);
  load('a', kRoomForTwo);
  EXPECT_EQ(cached(), "abcd");
}

TEST_F(CacheLimit, ACorpusThatIsInUseIsKept) {
  std::optional<TokenCorpus> used = load('a', kRoomForTwo), copy = used;
  used.reset();
  load('b', kRoomForTwo);
  age('a', 3);
  load('c', kRoomForTwo);
  EXPECT_EQ(cached(), "ac");
  copy.reset();
  age('a', 3);
  load('d', kRoomForTwo);
  EXPECT_EQ(cached(), "cd");
}

TEST_F(CacheLimit, ACorpusThatAnotherProcessUsesIsKeptUntilThatEnds) {
  load('a', kRoomForTwo);
  int ready[2], end[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(end), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    ::close(end[1]);
    const TokenCorpus corpus = load('a', kRoomForTwo);
    char byte = 0;
    const bool told = ::write(ready[1], &byte, 1) == 1;
    ::_exit(told && ::read(end[0], &byte, 1) == 0 ? 0 : 1);
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  load('b', kRoomForTwo / 1000);
  EXPECT_EQ(cached(), "ab");
  for (const int descriptor : {ready[0], ready[1], end[0], end[1]}) ::close(descriptor);
  int status = -1;
  ::waitpid(other, &status, 0);
  EXPECT_EQ(status, 0);
  load('c', kRoomForTwo / 1000);
  EXPECT_EQ(cached(), "c");
}

TEST_F(CacheLimit, OnlyWhatIsItsOwnIsRemoved) {
  load('a', 0);
  const std::string name(32, 'f'), random(16, '0');
  // Somebody's own, with names that look like the cache's.
  file("cache/notes.txt", "");
  file("cache/" + name + "/text", "");
  file("cache/" + name + ".old.tmp/text", "");
  prepare_shards({path("a")}, TinyTokenizer(), path("cache/" + std::string(32, 'e')), pool_, {});
  // What a process that was killed has left.
  file("cache/" + name + '.' + random + ".tmp/tokens-00000.shard", "");
  load('b', kRoomForTwo / 1000);
  EXPECT_EQ(cached(), "????b");
  EXPECT_FALSE(fs::exists(path("cache/" + name + '.' + random + ".tmp")));
}

// Does something else by the way, as another process could.
class OvertakenTokenizer : public TinyTokenizer {
 public:
  explicit OvertakenTokenizer(std::function<void()> other) : other_(std::move(other)) {}
  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    other_();
    TinyTokenizer::encode(text, tokens);
  }

 private:
  std::function<void()> other_;
};

TEST_F(CacheLimit, OfTwoThatPrepareTheSameNeitherHarmsTheOther) {
  std::optional<TokenCorpus> other;
  const TokenCorpus corpus = load('a', 0, OvertakenTokenizer([&] { other = load('a', 0); }));
  EXPECT_EQ(corpus.hash(), other->hash());
  EXPECT_EQ(cached(), "a");
  const OvertakenTokenizer failing([&] {
    other = load('b', 0);
    throw Error("as it happens");
  });
  EXPECT_THROW(load('b', 0, failing), Error);
  EXPECT_EQ(cached(), "ab");
  EXPECT_EQ(load('b', 0).hash(), other->hash());
}

}  // namespace
}  // namespace harmonic
