#include <bit>
#include <cstring>
#include <map>

#include "harmonic/base/file_lock.h"
#include "harmonic/base/random.h"
#include "harmonic/data/corpus_cache.h"
#include "harmonic/data/corpus_preparation.h"
#include "harmonic/data/token_corpus.h"
#include "tests/data_fixture.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

class TokenShardTest : public DataTest {
 protected:
  // Several hundred documents of very different lengths.
  std::vector<std::string> some_documents(size_t count = 300) const {
    std::vector<std::string> documents;
    const Random random(7, 7);
    for (size_t d = 0; d < count; ++d) {
      std::string document;
      const uint64_t length = 1 + random.below(d, 1 + random.below(d + 100'000, 2000));
      for (uint64_t i = 0; i < length; ++i)
        document += static_cast<char>('a' + random.below(d * 5000 + i, 26));
      documents.push_back(document);
    }
    return documents;
  }
  std::string corpus_file(const std::vector<std::string>& documents,
                          const std::string& name = "corpus.txt") const {
    std::string content;
    for (const std::string& document : documents) content += document + '\0';
    return file(name, content);
  }
};

// The stream as the design defines it: for each document EOT and its tokens, one EOT at the very end.
std::vector<int32_t> stream_of_documents(const std::vector<std::string>& documents,
                                         const Tokenizer& tokenizer) {
  std::vector<int32_t> stream;
  for (const std::string& document : documents) {
    stream.push_back(tokenizer.eot());
    tokenizer.encode(document, stream);
  }
  stream.push_back(tokenizer.eot());
  return stream;
}

void expect_corpus(const TokenCorpus& corpus, const std::vector<std::string>& documents,
                   const Tokenizer& tokenizer) {
  const std::vector<int32_t> expected = stream_of_documents(documents, tokenizer);
  ASSERT_EQ(corpus.tokens(), static_cast<int64_t>(expected.size()));
  std::vector<int32_t> found(expected.size());
  corpus.read(0, corpus.tokens(), found.data());
  EXPECT_EQ(found, expected);
  ASSERT_EQ(corpus.documents(), static_cast<int64_t>(documents.size()));
  int64_t position = 0, bytes = 0;
  for (int64_t d = 0; d < corpus.documents(); ++d) {
    const auto size = static_cast<int64_t>(documents[static_cast<size_t>(d)].size());
    ASSERT_EQ(corpus.document_begin(d), position);
    ASSERT_EQ(corpus.document_length(d), size + 1);
    ASSERT_EQ(corpus.document_bytes(d), size + 1);
    ASSERT_EQ(corpus.document_at(position), d);
    ASSERT_EQ(corpus.document_at(position + size), d);
    position += size + 1;
    bytes += size + 1;
  }
  EXPECT_EQ(corpus.source_bytes(), bytes);
  EXPECT_EQ(corpus.document_at(corpus.targets()), corpus.documents() - 1);
}

TEST_F(TokenShardTest, AWrittenShardGivesBackItsStreamAndDocuments) {
  const auto documents = some_documents();
  for (int32_t spread : {1, 300}) {  // 2 and 4 bytes a token
    const TinyTokenizer tokenizer(spread);
    TokenShardBuilder builder(identity_of(tokenizer));
    for (const auto& document : documents)
      builder.add(tokenizer.Tokenizer::encode(document), static_cast<int64_t>(document.size()));
    builder.write(path("x.shard"));
    EXPECT_EQ(read_file(path("x.shard")), builder.image());
    expect_corpus(TokenCorpus::open({path("x.shard")}, ShardCheck::everything), documents, tokenizer);
    expect_corpus(TokenCorpus::from_documents(documents, tokenizer), documents, tokenizer);
  }
}

TEST_F(TokenShardTest, TheBytesOnDiskAreTheDocumentedOnes) {
  TokenShardBuilder builder({256, 0, std::string(62, '0') + "7f"});
  builder.add(std::vector<int32_t>{0x41, 0x42}, 2);
  const std::string image = builder.image();
  const auto number = [&](size_t at, size_t size) {
    uint64_t value = 0;
    std::memcpy(&value, image.data() + at, size);
    return value;
  };
  ASSERT_EQ(image.size(), 128u + 8 + 16 + 8);
  EXPECT_EQ(image.substr(0, 8), "HARMTOKN");
  EXPECT_EQ(number(8, 4), 1u);
  EXPECT_EQ(number(12, 4), 2u);
  EXPECT_EQ(number(16, 8), 256u);
  EXPECT_EQ(number(24, 8), 0u);
  EXPECT_EQ(number(32, 8), 4u);
  EXPECT_EQ(number(40, 8), 1u);
  EXPECT_EQ(number(48, 8), 3u);
  EXPECT_EQ(number(72 + 31, 1), 0x7fu);
  EXPECT_EQ(number(128, 8), 0x0000004200410000u);
  EXPECT_EQ(number(136, 8), 0u);
  EXPECT_EQ(number(144, 8), 3u);
  EXPECT_EQ(number(152, 8), 3u);
  EXPECT_EQ(number(56, 8), std::rotl(uint64_t{8} ^ 0x0000004200410000u, 29) * 0x9fb21c651e98df25);
}

TEST_F(TokenShardTest, EveryDamagedByteAndEveryTruncationIsAnError) {
  const TinyTokenizer tokenizer;
  TokenShardBuilder builder(identity_of(tokenizer));
  for (const char* document : {"first", "second document", "3"})
    builder.add(tokenizer.Tokenizer::encode(document), static_cast<int64_t>(std::strlen(document)));
  const std::string image = builder.image();
  ASSERT_NO_THROW(TokenShard::from_image(image, "whole"));
  for (size_t at = 0; at < image.size(); ++at) {
    for (int bit : {0, 7}) {
      std::string damaged = image;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      EXPECT_THROW(TokenShard::from_image(damaged, "damaged"), Error) << "byte " << at << " bit " << bit;
    }
    EXPECT_THROW(TokenShard::from_image(image.substr(0, at), "cut"), Error) << "cut to " << at;
  }
  EXPECT_THROW(TokenShard::from_image(image + std::string(8, '\0'), "longer"), Error);
  EXPECT_NE(error_of([&] {
              TokenShard::open(file("cut.shard", image.substr(0, 100)));
            }).find("cut.shard: not a sound"),
            std::string::npos);
  EXPECT_NE(error_of([&] { TokenShard::open(path("none.shard")); }).find("none.shard"), std::string::npos);
}

uint64_t documented_checksum(std::string_view bytes) {
  uint64_t sum = bytes.size();
  for (size_t at = 0; at < bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    sum = std::rotl(sum ^ word, 29) * 0x9fb21c651e98df25;
  }
  return sum;
}

TEST_F(TokenShardTest, AHeaderMadeOnPurposeWithASoundChecksumIsStillChecked) {
  const TinyTokenizer tokenizer;
  TokenShardBuilder builder(identity_of(tokenizer));
  builder.add(tokenizer.Tokenizer::encode("some text"), 9);
  builder.add(tokenizer.Tokenizer::encode("more"), 4);
  const std::string image = builder.image();
  const auto forged = [&](size_t at, uint64_t value, size_t size) {
    std::string bytes = image;
    std::memcpy(bytes.data() + at, &value, size);
    const size_t index = bytes.size() - 5 * 8;
    const uint64_t index_sum = documented_checksum(std::string_view(bytes).substr(index));
    std::memcpy(bytes.data() + 64, &index_sum, 8);
    const uint64_t tokens_sum = documented_checksum(std::string_view(bytes).substr(128, index - 128));
    std::memcpy(bytes.data() + 56, &tokens_sum, 8);
    const uint64_t header_sum = documented_checksum(std::string_view(bytes).substr(0, 120));
    std::memcpy(bytes.data() + 120, &header_sum, 8);
    return bytes;
  };
  ASSERT_NO_THROW(TokenShard::from_image(forged(32, 16, 8), "as it was"));
  const size_t index = image.size() - 5 * 8;
  for (uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 31, uint64_t{1} << 40, uint64_t{1} << 61,
                         uint64_t{1} << 63, ~uint64_t{0}}) {
    for (size_t field :
         {size_t{32}, size_t{40}, size_t{48}, index, index + 8, index + 16, index + 24, index + 32}) {
      if (field == index && value == 0) continue;  // the truth
      EXPECT_THROW(TokenShard::from_image(forged(field, value, 8), "forged"), Error)
          << field << " = " << value;
    }
  }
  EXPECT_THROW(TokenShard::from_image(forged(16, 0, 8), "no vocabulary"), Error);
  EXPECT_THROW(TokenShard::from_image(forged(16, 1, 8), "tokens outside the vocabulary"), Error);
  EXPECT_THROW(TokenShard::from_image(forged(16, uint64_t{1} << 40, 8), "huge vocabulary"), Error);
  EXPECT_THROW(TokenShard::from_image(forged(24, 257, 8), "EOT outside the vocabulary"), Error);
  EXPECT_THROW(TokenShard::from_image(forged(12, 4, 4), "wrong width"), Error);
  EXPECT_THROW(TokenShard::from_image(forged(128, 9, 2), "no EOT at a document's start"), Error);
}

TEST_F(TokenShardTest, ATokenOutsideTheVocabularyIsNeverHandedOutEvenWithoutTheFullCheck) {
  const TinyTokenizer tokenizer;
  TokenShardBuilder builder(identity_of(tokenizer));
  builder.add(tokenizer.Tokenizer::encode("text"), 4);
  std::string image = builder.image();
  image[128 + 5] = 0x7f;
  const TokenShard shard = TokenShard::open(file("x.shard", image), ShardCheck::structure);
  int32_t tokens[6];
  EXPECT_NO_THROW(shard.read(0, 2, tokens));
  EXPECT_THROW(shard.read(0, 6, tokens), Error);
  EXPECT_THROW(TokenShard::open(path("x.shard"), ShardCheck::everything), Error);
}

TEST_F(TokenShardTest, ATokenizerThatGivesTokensOutsideItsVocabularyIsAnError) {
  TokenShardBuilder builder({10, 0, std::string(64, '0')});
  EXPECT_THROW(builder.add(std::vector<int32_t>{10}, 1), Error);
  EXPECT_THROW(builder.add(std::vector<int32_t>{-1}, 1), Error);
  EXPECT_THROW(TokenShardBuilder({10, 10, std::string(64, '0')}), Error);
  EXPECT_THROW(TokenShardBuilder({10, 0, "not a hash"}), Error);
}

TEST_F(TokenShardTest, OneAndTwoThreadsWriteTheSameBytes) {
  const auto documents = some_documents();
  const std::string input = corpus_file(documents);
  const TinyTokenizer tokenizer;
  PrepareOptions options;
  options.shard_tokens = 10'000;
  for (int threads : {1, 2}) {
    ThreadPool pool(threads);
    prepare_shards({input}, tokenizer, path(fmt::format("by{}", threads)), pool, options);
  }
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(path("by1"))) {
    EXPECT_EQ(read_file(entry.path()), read_file(path("by2") / entry.path().filename())) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 5u);
  expect_corpus(open_prepared_folder(path("by2"), ShardCheck::everything), documents, tokenizer);
}

// Cuts anywhere, or nowhere.
class CuttingTokenizer : public TinyTokenizer {
 public:
  explicit CuttingTokenizer(bool cuts) : cuts_(cuts) {}
  size_t cut_position(std::string_view text, size_t from) const override {
    return cuts_ ? std::min(from + 11, text.size()) : text.size();
  }

 private:
  bool cuts_;
};

TEST_F(TokenShardTest, ALongDocumentIsOneDocumentHoweverManyPiecesItIsTokenisedIn) {
  std::vector<std::string> documents = {"short", std::string(10'000'000, 'x'), "short too",
                                        std::string(300'000, 'y')};
  for (size_t i = 0; i < documents[1].size(); ++i) documents[1][i] = static_cast<char>('a' + i * i / 7 % 26);
  const std::string input = corpus_file(documents);
  ThreadPool pool(2);
  for (bool cuts : {true, false}) {
    const CuttingTokenizer tokenizer(cuts);
    expect_corpus(corpus_in_memory({input}, tokenizer, pool), documents, tokenizer);
  }
}

TEST_F(TokenShardTest, WhereTheStreamIsCutIntoShardsDoesNotShow) {
  const auto documents = some_documents(40);
  const std::string input = corpus_file(documents);
  const TinyTokenizer tokenizer;
  ThreadPool pool(2);
  for (int64_t shard_tokens : {1, 100, 5000, 1 << 20}) {
    PrepareOptions options;
    options.shard_tokens = shard_tokens;
    prepare_shards({input}, tokenizer, path("out"), pool, options);
    expect_corpus(open_prepared_folder(path("out")), documents, tokenizer);
  }
  size_t shards = 0;
  for (const auto& entry : fs::directory_iterator(path("out")))
    shards += entry.path().extension() == ".shard";
  EXPECT_EQ(shards, 1u) << "shards of an earlier preparation were left behind";
  expect_corpus(corpus_in_memory({input}, tokenizer, pool), documents, tokenizer);
}

TEST_F(TokenShardTest, AnUnfinishedOrMixedUpPreparationIsNotTaken) {
  const TinyTokenizer tokenizer;
  ThreadPool pool(1);
  prepare_shards({file("a.txt", "text a")}, tokenizer, path("a"), pool);
  prepare_shards({file("b.txt", "text b")}, tokenizer, path("b"), pool);
  fs::copy_file(path("b/tokens-00000.shard"), path("a/tokens-00000.shard"),
                fs::copy_options::overwrite_existing);
  EXPECT_THROW(open_prepared_folder(path("a")), Error);
  fs::remove(path("b/tokens-00000.shard"));
  EXPECT_THROW(open_prepared_folder(path("b")), Error);
  write_file(path("b/shards.json"),
             R"({"format":"harmonic token shards","version":1,"shards":[{"file":"../x"}]})");
  EXPECT_THROW(open_prepared_folder(path("b")), Error);
}

TEST_F(TokenShardTest, APreparationThatFailsLeavesTheOneBeforeAsItWas) {
  const TinyTokenizer tokenizer;
  ThreadPool pool(1);
  PrepareOptions options;
  options.shard_tokens = 4;  // a shard for each document: some are written before the failure
  const auto lines = [&](const char* name, const std::string& last) {
    return file(name, "{\"text\":\"one text\"}\n{\"text\":\"another\"}\n" + last);
  };
  prepare_shards({lines("good.jsonl", "")}, tokenizer, path("out"), pool, options);
  write_file(path("out/notes"), "of the user");
  const auto contents = [&] {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(path("out")))
      all[entry.path().filename()] = entry.is_directory() ? "folder" : read_file(entry.path());
    return all;
  };
  const auto before = contents();
  ASSERT_EQ(before.size(), 4u);
  EXPECT_THROW(prepare_shards({path("missing.txt")}, tokenizer, path("out"), pool, options), Error);
  EXPECT_EQ(contents(), before);
  EXPECT_THROW(prepare_shards({lines("bad.jsonl", "bad\n")}, tokenizer, path("out"), pool, options), Error);
  EXPECT_EQ(contents(), before);
  prepare_shards({file("short.txt", "short")}, tokenizer, path("out"), pool, options);
  expect_corpus(open_prepared_folder(path("out")), {"short"}, tokenizer);
  EXPECT_EQ(contents().size(), 3u) << "the second shard of before is gone";
  EXPECT_EQ(contents()["notes"], "of the user");
}

TEST_F(TokenShardTest, OnePreparationAtATimeWorksInAFolder) {
  const TinyTokenizer tokenizer;
  ThreadPool pool(1);
  const std::string text = file("a.txt", "text");
  fs::create_directories(path("out/.preparing"));
  write_file(path("out/.preparing/tokens-00000.shard"), "what a killed preparation left");
  {
    const FileLock other(path("out/.preparing/lock"), FileLock::Kind::exclusive);
    EXPECT_THROW(prepare_shards({text}, tokenizer, path("out"), pool), Error);
    EXPECT_TRUE(fs::exists(path("out/.preparing/lock"))) << "it is the other's";
  }
  prepare_shards({text}, tokenizer, path("out"), pool);
  expect_corpus(open_prepared_folder(path("out")), {"text"}, tokenizer);
  EXPECT_FALSE(fs::exists(path("out/.preparing")));
}

class CorpusCacheTest : public TokenShardTest {
 protected:
  void SetUp() override {
    TokenShardTest::SetUp();
    ::setenv("HARMONIC_CACHE", path("cache").c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("HARMONIC_CACHE");
    TokenShardTest::TearDown();
  }
  std::vector<fs::path> cached() const {
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(path("cache/tokens"))) folders.push_back(entry.path());
    return folders;
  }
  ThreadPool pool_{2};
  TinyTokenizer tokenizer_;
};

TEST_F(CorpusCacheTest, TheSecondRunTakesThePreparedTokensAndTheFirstIsNotTouched) {
  const auto documents = some_documents(20);
  const std::string input = corpus_file(documents);
  expect_corpus(load_corpus({input}, tokenizer_, pool_), documents, tokenizer_);
  ASSERT_EQ(cached().size(), 1u);
  const auto written = fs::last_write_time(cached()[0] / "shards.json");
  expect_corpus(load_corpus({input}, tokenizer_, pool_), documents, tokenizer_);
  EXPECT_EQ(fs::last_write_time(cached()[0] / "shards.json"), written);
}

TEST_F(CorpusCacheTest, ChangedTextTokenizerOrFormatIsPreparedAnew) {
  const std::string input = file("x.txt", "one\n\n\ntwo");
  load_corpus({input}, tokenizer_, pool_);
  load_corpus({input}, TinyTokenizer(1, 'b'), pool_);
  PrepareOptions options;
  options.reader.format = DocumentFormat::blank_lines;
  EXPECT_EQ(load_corpus({input}, tokenizer_, pool_, options).documents(), 2);
  file("x.txt", "other text");
  expect_corpus(load_corpus({input}, tokenizer_, pool_), {"other text"}, tokenizer_);
  EXPECT_EQ(cached().size(), 4u);
}

TEST_F(CorpusCacheTest, ADamagedPreparationIsMadeAgain) {
  const auto documents = some_documents(20);
  const std::string input = corpus_file(documents);
  load_corpus({input}, tokenizer_, pool_);
  const std::string shard = (cached()[0] / "tokens-00000.shard").string();
  const std::string good = read_file(shard);
  std::string flipped = good;
  flipped[200] = static_cast<char>(flipped[200] ^ 1);
  for (const std::string& damage : {flipped, good.substr(0, 300), std::string()}) {
    write_file(shard, damage);
    expect_corpus(load_corpus({input}, tokenizer_, pool_), documents, tokenizer_);
    EXPECT_EQ(read_file(shard), good);
  }
  write_file(cached()[0] / "shards.json", "{");
  expect_corpus(load_corpus({input}, tokenizer_, pool_), documents, tokenizer_);
}

TEST_F(CorpusCacheTest, AnErrorInTheTextLeavesNothingInTheCache) {
  EXPECT_THROW(load_corpus({file("x.jsonl", "{\"text\":\"a\"}\nbad\n")}, tokenizer_, pool_), Error);
  EXPECT_TRUE(cached().empty());
}

TEST_F(CorpusCacheTest, PreparedFoldersAndTextMakeOneCorpusInTheirOrder) {
  prepare_shards({file("a.txt", "aaa")}, tokenizer_, path("prepared"), pool_);
  const std::string text = file("b.txt", "bb"), more = file("c.txt", "c");
  expect_corpus(load_corpus({text, path("prepared"), more}, tokenizer_, pool_), {"bb", "aaa", "c"},
                tokenizer_);
}

TEST_F(CorpusCacheTest, DamagedShardsNamedByTheirFolderAreRefused) {
  prepare_shards({file("a.txt", std::string(1000, 'a'))}, tokenizer_, path("prepared"), pool_);
  std::string shard = read_file(path("prepared/tokens-00000.shard"));
  shard[shard.size() / 2] = static_cast<char>(shard[shard.size() / 2] ^ 1);
  write_file(path("prepared/tokens-00000.shard"), shard);
  EXPECT_THROW(load_corpus({path("prepared")}, tokenizer_, pool_), Error);
}

TEST_F(CorpusCacheTest, TheFormatShardsTakesPreparedFoldersOnly) {
  const std::string text = file("a.txt", "aaa");
  prepare_shards({text}, tokenizer_, path("prepared"), pool_);
  PrepareOptions options;
  options.reader.format = DocumentFormat::shards;
  expect_corpus(load_corpus({path("prepared")}, tokenizer_, pool_, options), {"aaa"}, tokenizer_);
  EXPECT_THROW(load_corpus({text}, tokenizer_, pool_, options), Error);
  EXPECT_THROW(prepare_shards({text}, tokenizer_, path("again"), pool_, options), Error);
}

TEST_F(CorpusCacheTest, ACacheOfOnesOwnIsUsedInsteadOfTheCommonOne) {
  load_corpus({file("a.txt", "aaa")}, tokenizer_, pool_, {}, {path("own")});
  EXPECT_FALSE(fs::exists(path("cache")));
  EXPECT_FALSE(fs::is_empty(path("own")));
}

TEST_F(CorpusCacheTest, ShardsOfAnotherTokenizerAreRefused) {
  prepare_shards({file("a.txt", "aaa")}, TinyTokenizer(1, 'b'), path("prepared"), pool_);
  const std::string message = error_of([&] { load_corpus({path("prepared")}, tokenizer_, pool_); });
  EXPECT_NE(message.find("another tokenizer"), std::string::npos) << message;
}

}  // namespace
}  // namespace harmonic
