// Reading and preparing text end when the program is asked to stop, and leave nothing behind.
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include "harmonic/data/corpus_cache.h"
#include "harmonic/data/text_file.h"
#include "tests/data_fixture.h"
#include "tests/interrupted_child.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

class DataInterrupt : public DataTest {};

TEST_F(DataInterrupt, NoDocumentIsReadAndNoFolderListedAfterwards) {
  const std::string content(1 << 20, 'a');
  for (const std::string& input :
       {file("plain", content), compressed("text.gz", ARCHIVE_FILTER_GZIP, content),
        compressed("text.xz", ARCHIVE_FILTER_XZ, content),
        zipped("text.zip", {{"one", content}, {"two", content}})})
    EXPECT_TRUE(is_interrupted([&] {
      DocumentSource source({input});
      ::raise(SIGTERM);
      std::string document;
      source.next(document);
    })) << input;
  EXPECT_TRUE(is_interrupted([&] {
    ::raise(SIGTERM);
    list_input_files({path("")});
  }));
}

TEST_F(DataInterrupt, WaitingForInputEndsThoughTheRequestCameBefore) {
  EXPECT_TRUE(is_interrupted([&] {
    int ends[2];
    if (::pipe(ends) != 0) return;
    ::raise(SIGTERM);
    char byte;
    read_when_ready(ends[0], &byte, 1, "a pipe that nobody writes to");
  }));
}

// Opening such a pipe would wait for its writer, and not hear of the request.
TEST_F(DataInterrupt, WaitingForTheWriterOfAPipeEndsWheneverTheRequestComes) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const auto& read : {+[](const std::string& pipe) { read_text(pipe); },
                           +[](const std::string& pipe) { read_file(pipe); }}) {
    EXPECT_TRUE(is_interrupted([&] {
      ::alarm(20);  // ends the child where it would wait for ever
      ::raise(SIGTERM);
      read(path("pipe"));
    }));
    EXPECT_TRUE(is_interrupted([&] {
      ::alarm(20);
      std::thread([] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        ::kill(::getpid(), SIGTERM);
      }).detach();
      read(path("pipe"));
    }));
  }
}

TEST_F(DataInterrupt, APipeIsReadWhoseWriterComesLater) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const auto& read : {+[](const std::string& pipe) { return read_text(pipe); },
                           +[](const std::string& pipe) { return read_file(pipe); }}) {
    std::thread writer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      std::ofstream(path("pipe")) << "a prompt";
    });
    EXPECT_EQ(read(path("pipe")), "a prompt");
    writer.join();
  }
}

// Asks for the stop when it is given its `last`-th text.
class StoppingTokenizer : public TinyTokenizer {
 public:
  explicit StoppingTokenizer(int last) : left_(last) {}
  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    if (--left_ == 0) ::raise(SIGTERM);
    TinyTokenizer::encode(text, tokens);
  }

 private:
  mutable std::atomic<int> left_;
};

TEST_F(DataInterrupt, APreparationStopsInTheMiddleAndLeavesNothing) {
  std::string documents;
  for (int i = 0; i < 200; ++i) documents += std::string(100'000, 'a') + '\0';
  const std::string input = file("text", documents);
  PrepareOptions options;
  options.shard_tokens = 1'000'000;
  for (const int threads : {1, 2}) {
    // The first text of all; and one of a later round, when shards have been written.
    for (const int last : {1, 150}) {
      const StoppingTokenizer tokenizer(last);
      fs::create_directory(path("before"));
      EXPECT_TRUE(is_interrupted([&] {
        ThreadPool pool(threads);
        prepare_shards({input}, tokenizer, path("out"), pool, options);
      }));
      EXPECT_FALSE(fs::exists(path("out")));
      EXPECT_TRUE(is_interrupted([&] {
        ThreadPool pool(threads);
        prepare_shards({input}, tokenizer, path("before"), pool, options);
      }));
      EXPECT_TRUE(fs::is_empty(path("before"))) << "a folder that was there stays";
      EXPECT_TRUE(is_interrupted([&] {
        ThreadPool pool(threads);
        load_corpus({input}, tokenizer, pool, options, {path("cache")});
      }));
      EXPECT_TRUE(fs::is_empty(path("cache")));
      EXPECT_TRUE(is_interrupted([&] {
        ThreadPool pool(threads);
        corpus_in_memory({input}, tokenizer, pool);
      }));
    }
  }
}

TEST_F(DataInterrupt, NoCachedCorpusIsCheckedAfterwards) {
  const std::string input = file("text", "a text");
  ThreadPool pool(1);
  load_corpus({input}, TinyTokenizer(), pool, {}, {path("cache")});
  for (const auto& entry : fs::recursive_directory_iterator(path("cache"))) {
    if (entry.path().extension() != ".shard") continue;
    EXPECT_TRUE(is_interrupted([&] {
      ::raise(SIGTERM);
      TokenShard::open(entry.path(), ShardCheck::everything);
    }));
  }
}

}  // namespace
}  // namespace harmonic
