// Sessions in Redis: what several servers that share them see of each other, and what they do when it fails.
// What it does as other stores do is in runtime_session_test.cc.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/un.h>

#include <atomic>
#include <chrono>
#include <optional>

#include "harmonic/runtime/redis_connection.h"
#include "harmonic/runtime/sessions.h"
#include "tests/redis_server.h"

namespace harmonic {
namespace {

double seconds_of(const auto& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Whether it works within ten seconds.
bool comes_to_work(const auto& work) {
  for (int i = 0; i < 1000; ++i) {
    try {
      work();
      return true;
    } catch (const StoreUnavailable&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  return false;
}

class RedisStore : public ::testing::Test {
 protected:
  RedisStore() : model_(tiny_config(*make_byte_tokenizer()), cpu_backend(), false) {
    initialise_for_test(model_, 1);
  }
  void SetUp() override {
    if (!redis_is_installed()) GTEST_SKIP() << kNoRedis;
    redis_.emplace();
  }
  RedisOptions options(double seconds = 2) const {
    RedisOptions options = RedisOptions::of(redis_->address());
    options.seconds = seconds;
    return options;
  }
  std::unique_ptr<SessionStore> open(const std::string& identity = "a model",
                                     int64_t memory = 1 << 20) const {
    return make_redis_store(options(), model_, identity, memory);
  }
  Session::Point point(int number) const {
    TextPoint made = beginning_of_text(model_);
    made.pending = number % 256;
    static_cast<float*>(made.state.data())[2] = static_cast<float>(number);
    return std::make_shared<const TextPoint>(std::move(made));
  }
  int64_t keys(const std::string& pattern) const {
    return static_cast<int64_t>(RedisConnection(options()).ask({"KEYS", pattern}).list.size());
  }

  std::optional<RedisServer> redis_;
  Model model_;
};

TEST(RedisAddress, AreOfAHostOrOfASocketFile) {
  const auto of = [](const char* address) { return RedisOptions::of(address).address(); };
  EXPECT_EQ(of("redis://db.example:7000"), "redis://db.example:7000");
  EXPECT_EQ(of("redis://127.0.0.1"), "redis://127.0.0.1:6379");
  EXPECT_EQ(of("redis://[::1]:1"), "redis://[::1]:1");
  EXPECT_EQ(of("redis:/run/redis.sock"), "redis:/run/redis.sock");
  for (const char* wrong :
       {"redis:", "redis://", "redis://:7", "redis://a:0", "redis://a:65536", "redis://a:", "redis://a:7x",
        "redis://[::1", "redis://me:secret@a:7", "redis://a/1", "memory"})
    EXPECT_THROW(RedisOptions::of(wrong), Error) << wrong;
}

TEST_F(RedisStore, OneServerGoesOnWithWhatAnotherLeft) {
  const auto one = open(), two = open();
  one->save({"a", "me", "", 1, 1, point(1), {{"here", point(7)}}});
  for (int i = 2; i < 20; ++i) {
    SessionStore& next = i % 2 == 0 ? *two : *one;
    auto session = next.load("me", "a");
    ASSERT_TRUE(session);
    EXPECT_EQ(*session->point, *point(i - 1)) << "and not what it had in memory";
    EXPECT_EQ(*session->checkpoints.at("here"), *point(7));
    session->point = point(i);
    next.save(*session);
  }
  EXPECT_EQ(two->count(), 1);
  EXPECT_TRUE(two->erase("me", "a"));
  EXPECT_FALSE(one->load("me", "a"));
  EXPECT_EQ(one->count(), 0);
}

TEST_F(RedisStore, OfTwoThatChangeASessionTheFirstCountsAndNoneIsMixed) {
  const auto one = open(), two = open();
  one->save({"a", "me", "", 1, 1, point(1), {}});
  Session first = *one->load("me", "a"), second = *two->load("me", "a");
  first.point = point(2);
  second.point = point(3);
  second.checkpoints["mine"] = point(4);
  one->save(first);
  EXPECT_THROW(two->save(second), SessionStore::Changed);
  EXPECT_EQ(*two->load("me", "a")->point, *point(2));
  EXPECT_TRUE(two->load("me", "a")->checkpoints.empty());
  EXPECT_EQ(keys("*:state:*"), 1) << "of what was refused nothing is kept";
  // An ended session does not come back.
  first = *one->load("me", "a");
  two->erase("me", "a");
  EXPECT_THROW(one->save(first), SessionStore::Changed);
  EXPECT_FALSE(one->load("me", "a"));
  EXPECT_EQ(keys("*:state:*"), 0);
  // A lease that was saved can be saved again.
  Sessions sessions(open(), 10);
  Sessions::Lease lease = sessions.lease("me", sessions.create("me", point(1)).id);
  lease.save();
  EXPECT_NO_THROW(lease.save());
}

TEST_F(RedisStore, ManyServersThatChangeASessionAtOnceLoseNoChange) {
  constexpr int kThreads = 4, kChanges = 50;
  open()->save({"a", "me", "", 0, 0, point(0), {}});
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([this] {
      const auto store = open();
      for (int done = 0; done < kChanges;) {
        Session session = *store->load("me", "a");
        session.point =
            point(1 + static_cast<int>(static_cast<const float*>(session.point->state.data())[2]));
        try {
          store->save(session);
          ++done;
        } catch (const SessionStore::Changed&) {
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(*open()->load("me", "a")->point, *point(kThreads * kChanges));
  EXPECT_EQ(keys("*:state:*"), 1);
}

TEST_F(RedisStore, AStateIsKeptAsLongAsSomebodyHasIt) {
  const auto store = open("a model", 1);
  const Session session{"a", "me", "", 0, 0, point(1), {{"x", point(2)}, {"y", point(1)}}};
  store->save(session);
  store->add(session, {"b", "c"});
  EXPECT_EQ(keys("*:state:*"), 2);
  store->erase("me", "a");
  store->erase("me", "c");
  EXPECT_EQ(*store->load("me", "b")->point, *point(1));
  Session b = *store->load("me", "b");
  b.point = b.checkpoints.at("x");
  b.checkpoints.erase("y");
  store->save(b);
  EXPECT_EQ(keys("*:state:*"), 1);
  EXPECT_EQ(*store->load("me", "b")->point, *point(2));
  for (int i = 3; i < 100; ++i) {
    b = *store->load("me", "b");
    b.point = point(i);
    store->save(b);
  }
  EXPECT_EQ(keys("*:state:*"), 2);
  store->erase("me", "b");
  EXPECT_EQ(keys("*:state:*"), 0);
  // A state that this server knows and another has let go of is written again.
  const auto other = open();
  store->save(session);
  other->erase("me", "a");
  store->add(session, {"d"});
  EXPECT_EQ(*other->load("me", "d")->checkpoints.at("x"), *point(2));
}

TEST_F(RedisStore, ModelsAndOwnersSeeNothingOfEachOther) {
  const auto store = open(), other = open("another model");
  store->save({"a", "me", "", 0, 0, point(1), {}});
  EXPECT_FALSE(other->load("me", "a"));
  EXPECT_EQ(other->count(), 0);
  EXPECT_FALSE(store->load("", "a"));
  EXPECT_FALSE(store->load("", "me:session:a"));
  EXPECT_TRUE(store->list("", "", 10).empty());
  EXPECT_FALSE(store->erase("you", "a"));
  other->save({"a", "me", "", 0, 0, point(2), {}});
  EXPECT_EQ(*store->load("me", "a")->point, *point(1));
}

TEST_F(RedisStore, AServerThatIsGoneIsSaidAndComeBackTo) {
  RedisOptions where = options();
  const auto store = open();
  store->save({"a", "me", "", 0, 0, point(1), {}});
  redis_->stop();
  EXPECT_THROW(make_redis_store(where, model_, "a model", 1), StoreUnavailable);
  EXPECT_LT(seconds_of([&] {
              for (int i = 0; i < 1000; ++i) EXPECT_THROW(store->load("me", "a"), StoreUnavailable);
            }),
            5)
      << "nobody waits in a row";
  redis_->start();  // as one that has forgotten everything
  EXPECT_TRUE(comes_to_work([&] { store->load("me", "a"); }));
  EXPECT_FALSE(store->load("me", "a"));
  store->save({"a", "me", "", 0, 0, point(1), {}});
  EXPECT_EQ(*store->load("me", "a")->point, *point(1));
}

TEST_F(RedisStore, AServerThatWasStartedAnewIsNoErrorAtAll) {
  const auto store = open();
  store->save({"a", "me", "", 0, 0, point(1), {}});
  redis_->stop();
  redis_->start();
  EXPECT_NO_THROW(store->save({"b", "me", "", 0, 0, point(1), {}})) << "its state is sent again";
  EXPECT_EQ(*store->load("me", "b")->point, *point(1));
}

TEST_F(RedisStore, AServerThatHangsIsWaitedForOnlySoLong) {
  const auto store = make_redis_store(options(0.2), model_, "a model", 1 << 20);
  store->save({"a", "me", "", 0, 0, point(1), {}});
  Session session = *store->load("me", "a");
  redis_->freeze();
  EXPECT_LT(seconds_of([&] { EXPECT_THROW(store->load("me", "a"), StoreUnavailable); }), 2);
  EXPECT_LT(seconds_of([&] { EXPECT_THROW(store->load("me", "a"), StoreUnavailable); }), 0.1);
  redis_->thaw();
  EXPECT_TRUE(comes_to_work([&] { store->load("me", "a"); }));
  session.point = point(2);
  store->save(session);
  EXPECT_EQ(*store->load("me", "a")->point, *point(2));
}

TEST_F(RedisStore, WhileOneWaitsForAReplyOthersDoNotWaitAsLong) {
  const auto store = open();
  redis_->freeze();
  std::thread first([&] { EXPECT_THROW(store->load("me", "a"), StoreUnavailable); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LT(seconds_of([&] { EXPECT_THROW(store->load("me", "a"), StoreUnavailable); }), 1);
  first.join();
  redis_->thaw();
}

TEST_F(RedisStore, AHostAndPortServeAsASocketFileDoes) {
  const int file = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(::bind(file, name, size) | ::getsockname(file, name, &size), 0);
  ::close(file);  // a port that is free
  const std::string port = std::to_string(ntohs(address.sin_port));
  redis_->stop();
  redis_->start({"--bind", "127.0.0.1", "--port", port});
  const auto store = make_redis_store(RedisOptions::of("redis://127.0.0.1:" + port), model_, "a model", 1);
  store->save({"a", "me", "", 0, 0, point(1), {}});
  EXPECT_EQ(*open()->load("me", "a")->point, *point(1));
  redis_->stop();
  EXPECT_THROW(store->load("me", "a"), StoreUnavailable);
}

TEST_F(RedisStore, APasswordIsAskedForAndGiven) {
  redis_->stop();
  redis_->start({"--requirepass", "open sesame"});
  RedisOptions with = options();
  EXPECT_THROW(make_redis_store(with, model_, "a model", 1), Error);
  with.password = "wrong";
  EXPECT_THROW(make_redis_store(with, model_, "a model", 1), Error);
  with.password = "open sesame";
  const auto store = make_redis_store(with, model_, "a model", 1);
  store->save({"a", "me", "", 0, 0, point(1), {}});
  EXPECT_EQ(store->count(), 1);
}

TEST_F(RedisStore, BytesThatAreNoStateOfOursAreAnError) {
  const std::string session = "harmonic:a model:me:session:a";
  open()->save({"a", "me", "", 0, 0, point(1), {}});
  RedisConnection redis(options());
  const std::string state = redis.ask({"HGET", session, "state"}).text;
  EXPECT_EQ(state.size(), 64u);
  redis.ask({"HSET", "harmonic:a model:me:state:" + state, "bytes", "HTP1"});
  EXPECT_THROW(open()->load("me", "a"), Error);
  redis.ask({"DEL", "harmonic:a model:me:state:" + state});
  EXPECT_THROW(open()->load("me", "a"), Error);
  redis.ask({"HSET", session, "used", "x"});
  EXPECT_THROW(open()->list("me", "", 9), Error);
  redis.ask({"HDEL", session, "state"});
  EXPECT_THROW(open()->load("me", "a"), Error);
  redis.ask({"SET", session, "something else"});
  EXPECT_THROW(open()->load("me", "a"), Error);
  EXPECT_THROW(open()->erase("me", "a"), Error);
  EXPECT_THROW(open()->save({"a", "me", "", 0, 0, point(1), {}}), Error);
  redis.ask({"SET", "harmonic:a model:sessions", "many"});
  EXPECT_THROW(open(), Error);
}

TEST_F(RedisStore, OneThatIsFullSaysSoKeepsAllAndLetsSessionsBeDeleted) {
  redis_->stop();
  redis_->start({"--maxmemory", "3mb"});
  const auto store = open();
  store->save({"one", "me", "", 0, 0, point(1), {{"here", point(2)}}});
  std::vector<std::string> ids;
  const auto fill = [&] {
    for (int i = 0; i < 100'000; ++i) {
      Session next{fmt::format("{:06}", ids.size()), "me", "", 0, 0, point(3), {}};
      // Each has a state of its own.
      auto own = *next.point;
      own.earlier = ids.size();
      next.point = std::make_shared<const TextPoint>(std::move(own));
      store->save(next);
      ids.push_back(next.id);
    }
  };
  EXPECT_THROW(fill(), StoreFull);
  const auto full = static_cast<int64_t>(ids.size());
  EXPECT_GT(full, 10);
  Session one = *store->load("me", "one");
  one.point = point(4);
  EXPECT_THROW(store->save(one), StoreFull);
  EXPECT_THROW(store->add(one, {"x", "y"}), StoreFull);
  EXPECT_EQ(store->count_of("me"), full + 1);
  EXPECT_EQ(keys("*:me:session:*"), full + 1);
  EXPECT_EQ(keys("*:me:state:*"), full + 2);
  EXPECT_EQ(*store->load("me", "one")->point, *point(1));
  EXPECT_EQ(store->load("me", "one")->revision, 1);
  for (int64_t i = 0; i < full / 2; ++i) EXPECT_TRUE(store->erase("me", ids[static_cast<size_t>(i)]));
  store->save(one);
  EXPECT_EQ(*store->load("me", "one")->point, *point(4));
  EXPECT_EQ(keys("*:me:state:*"), full - full / 2 + 2);
}

// Stands between a store and what answers it: Redis, whose reply it can lose, or nobody, for whom it says
// something of its own.
class Between {
 public:
  explicit Between(std::string to = {}, std::string says = {}) : to_(std::move(to)), says_(std::move(says)) {
    listening_ = open(folder_ / "between", true);
    thread_ = std::thread([this] { run(); });
  }
  ~Between() {
    ending_ = true;
    thread_.join();
    ::close(listening_);
  }
  RedisOptions options() const {
    RedisOptions options = RedisOptions::of("redis:" + (folder_ / "between"));
    options.seconds = 1;
    return options;
  }
  std::atomic<bool> lose_the_next_reply{false};

 private:
  static int open(const std::string& path, bool listens) {
    const int file = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    path.copy(name.sun_path, sizeof name.sun_path - 1);
    const auto* address = reinterpret_cast<const sockaddr*>(&name);
    const bool done = listens ? ::bind(file, address, sizeof name) == 0 && ::listen(file, 8) == 0
                              : ::connect(file, address, sizeof name) == 0;
    EXPECT_TRUE(done);
    return file;
  }
  static bool wait(int file) {
    pollfd waiting = {file, POLLIN, 0};
    return ::poll(&waiting, 1, 5) > 0;
  }
  // False when it has ended.
  static bool pass(int from, int to) {
    char bytes[65536];
    const ssize_t got = ::recv(from, bytes, sizeof bytes, 0);
    return got > 0 && ::send(to, bytes, static_cast<size_t>(got), MSG_NOSIGNAL) == got;
  }
  void run() {
    while (!ending_) {
      if (!wait(listening_)) continue;
      const int client = ::accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
      const int server = to_.empty() ? -1 : open(to_, false);
      bool open = true;
      while (open && !ending_) {
        char byte;
        if (wait(client)) {
          if (server >= 0) {
            open = pass(client, server);
          } else if (::recv(client, &byte, 1, MSG_PEEK) <= 0) {
            open = false;
          } else {
            char asked[65536];
            [[maybe_unused]] const auto got = ::recv(client, asked, sizeof asked, 0);
            open = ::send(client, says_.data(), says_.size(), MSG_NOSIGNAL) > 0;
          }
        }
        if (server < 0 || !open || !wait(server)) continue;
        open = !lose_the_next_reply.exchange(false) && pass(server, client);
      }
      ::close(client);
      if (server >= 0) ::close(server);
    }
  }

  const std::string to_, says_;
  TemporaryFolder folder_;
  int listening_;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

TEST_F(RedisStore, AWriteWhoseReplyIsLostIsDoneOnce) {
  Between between(redis_->socket_file());
  const auto store = make_redis_store(between.options(), model_, "a model", 1 << 20);
  store->save({"a", "me", "", 0, 0, point(1), {}});
  Session session = *store->load("me", "a");
  session.point = point(2);
  between.lose_the_next_reply = true;
  store->save(session);
  EXPECT_FALSE(between.lose_the_next_reply);
  EXPECT_EQ(open()->load("me", "a")->revision, 2);
  between.lose_the_next_reply = true;
  store->add(session, {"b", "c"});
  EXPECT_EQ(store->count(), 3);
  for (const char* id : {"a", "b", "c"}) store->erase("me", id);
  EXPECT_EQ(keys("*:state:*"), 0) << "no use was counted twice";
}

TEST_F(RedisStore, RepliesThatAreNotWhatWasAskedForAreErrors) {
  for (const char* says :
       {":5\r\n", "+OK\r\n", "*0\r\n", "*1\r\n$1\r\nx\r\n", "*-1\r\n", "$-1\r\nrest", "*2147483648\r\n",
        "*9223372036854775807\r\n", "$9223372036854775807\r\n", "$-7\r\n", "no protocol\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "-ERR no\r\n", "$1\r\n0\r\n",
        "$5\r\nabc"}) {
    Between between("", says);
    EXPECT_THROW(
        {
          const auto store = make_redis_store(between.options(), model_, "a model", 1);
          store->load("me", "a");
          store->save({"a", "me", "", 0, 0, point(1), {}});
        },
        Error)
        << says;
  }
}

}  // namespace
}  // namespace harmonic
