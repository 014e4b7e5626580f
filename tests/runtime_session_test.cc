// Sessions, their stores, the cache of prompts' beginnings, and state tokens.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstring>
#include <optional>

#include "harmonic/runtime/prefix_cache.h"
#include "harmonic/runtime/redis_connection.h"
#include "harmonic/runtime/sessions.h"
#include "harmonic/runtime/state_seal.h"
#include "tests/model_folder_fixture.h"
#include "tests/redis_server.h"

namespace harmonic {
namespace {

class SessionsTest : public ::testing::TestWithParam<std::string> {
 protected:
  SessionsTest() : model_(tiny_config(*make_byte_tokenizer()), cpu_backend(), false) {
    initialise_for_test(model_, 1);
  }
  void SetUp() override {
    if (GetParam() != "redis") return;
    if (!redis_is_installed()) GTEST_SKIP() << kNoRedis;
    redis_.emplace();
  }

  std::unique_ptr<SessionStore> open(int64_t memory = 1 << 20) const {
    if (GetParam() == "memory") return make_memory_store();
    if (GetParam() == "redis")
      return make_redis_store(RedisOptions::of(redis_->address()), model_, "a model", memory);
    return make_sqlite_store(folder_ / "sessions", model_, "a model", memory);
  }
  // A state that differs from others in its numbers.
  Session::Point point(int number) const {
    TextPoint made = beginning_of_text(model_);
    made.earlier = static_cast<uint64_t>(number);
    made.pending = number % 256;
    auto* numbers = static_cast<float*>(made.state.data());
    numbers[2] = static_cast<float>(number);
    return std::make_shared<const TextPoint>(std::move(made));
  }

  TemporaryFolder folder_;
  std::optional<RedisServer> redis_;
  Model model_;
};

class Stores : public SessionsTest {};
INSTANTIATE_TEST_SUITE_P(All, Stores, ::testing::Values("memory", "sqlite", "redis"));

TEST_P(Stores, KeepWhatWasSavedUnderItsOwnerAndName) {
  const auto store = open();
  const Session session{"a", "me", "", 5, 6, point(1), {{"x", point(2)}, {"y", point(1)}}};
  store->save(session);
  EXPECT_FALSE(store->load("me", "b"));
  EXPECT_FALSE(store->load("you", "a"));
  const auto loaded = store->load("me", "a");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(*loaded->point, *session.point);
  EXPECT_EQ(*loaded->checkpoints.at("x"), *session.checkpoints.at("x"));
  EXPECT_EQ(loaded->created, 5);
  store->save({"a", "you", "", 0, 0, point(3), {}});
  EXPECT_EQ(*store->load("me", "a")->point, *session.point);
  EXPECT_EQ(store->count(), 2);
  EXPECT_FALSE(store->erase("me", "b"));
  EXPECT_TRUE(store->erase("me", "a"));
  EXPECT_FALSE(store->erase("me", "a"));
  EXPECT_FALSE(store->load("me", "a"));
  EXPECT_EQ(store->count(), 1);
}

TEST_P(Stores, ListInPages) {
  const auto store = open();
  for (const char* id : {"c", "a", "b", "d"}) store->save({id, "me", "", 0, 0, point(1), {}});
  store->save({"a", "you", "", 0, 0, point(1), {}});
  std::vector<std::string> ids;
  for (std::string after;;) {
    const std::vector<Session> page = store->list("me", after, 3);
    if (page.empty()) break;
    for (const Session& session : page) ids.push_back(session.id);
    after = ids.back();
  }
  EXPECT_EQ(ids, (std::vector<std::string>{"a", "b", "c", "d"}));
}

TEST_P(Stores, ASessionThatIsNoLongerInMemoryComesBack) {
  // So little that the store holds one at a time.
  const auto store = open(1);
  for (int i = 0; i < 50; ++i)
    store->save({std::to_string(i), "me", "", i, i, point(i), {{"start", point(1000 + i)}}});
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 50; ++i) {
      auto session = store->load("me", std::to_string(i));
      ASSERT_TRUE(session);
      EXPECT_EQ(*session->point, *point(i + round * 100));
      EXPECT_EQ(*session->checkpoints.at("start"), *point(1000 + i));
      session->point = point(i + (round + 1) * 100);
      store->save(*session);
    }
  }
}

TEST_P(Stores, ForksShareAStateUntilTheyGoOn) {
  const auto store = open();
  const Session::Point shared = point(1);
  for (int i = 0; i < 10; ++i) store->save({std::to_string(i), "me", "", 0, 0, shared, {}});
  if (GetParam() == "memory") {
    EXPECT_EQ(store->bytes_in_memory(), shared->state.bytes());
  }
  Session one = *store->load("me", "3");
  one.point = point(2);
  store->save(one);
  for (int i = 0; i < 9; ++i) store->erase("me", std::to_string(i));
  EXPECT_EQ(*store->load("me", "9")->point, *shared);
}

class SqliteStore : public SessionsTest {};
INSTANTIATE_TEST_SUITE_P(File, SqliteStore, ::testing::Values("sqlite"));

TEST_P(SqliteStore, WhatWasSavedSurvivesAKill) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto store = open();
    for (int i = 0;; ++i) {
      store->save({std::to_string(i), "me", "", 0, 0, point(i), {}});
      if (::write(ends[1], &i, sizeof i) != sizeof i) ::_exit(1);
    }
  }
  int last = -1;
  while (last < 40 && ::read(ends[0], &last, sizeof last) == sizeof last) continue;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ends[0]);
  ::close(ends[1]);
  const auto store = open();
  EXPECT_GE(store->count(), last + 1);
  for (int i = 0; i <= last; ++i) EXPECT_EQ(*store->load("me", std::to_string(i))->point, *point(i));
}

TEST_P(SqliteStore, StatesThatNobodyHasAnyMoreAreGoneFromTheFile) {
  const std::string path = folder_ / "sessions";
  const auto size = [&] {
    int64_t bytes = 0;
    for (const auto& [name, content] : folder_.snapshot()) bytes += static_cast<int64_t>(content.size());
    return bytes;
  };
  {
    const auto store = open();
    store->save({"a", "me", "", 0, 0, point(0), {}});
    for (int i = 1; i < 5000; ++i) store->save({"a", "me", "", 0, 0, point(i), {}});
  }
  EXPECT_LT(size(), 200 * (1000 + model_.state_layout().bytes()));
}

TEST_P(SqliteStore, AFileMayHaveANameThatMeansSomethingToSqlite) {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder_ / "");
  make_sqlite_store(":memory:", model_, "a model", 1)->save({"a", "me", "", 0, 0, point(1), {}});
  const int64_t kept = make_sqlite_store(":memory:", model_, "a model", 1)->count();
  std::filesystem::current_path(before);
  EXPECT_EQ(kept, 1);
}

TEST_P(SqliteStore, FilesOfAnotherKindAndOfAnotherModelAreRefused) {
  {
    const auto store = open();
    store->save({"a", "me", "", 0, 0, point(0), {}});
    EXPECT_THROW(open(), Error) << "while another has it";
  }
  struct stat found;
  ASSERT_EQ(::stat((folder_ / "sessions").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  EXPECT_THROW(make_sqlite_store(folder_ / "sessions", model_, "another model", 1), Error);
  folder_.file("text", std::string(5000, 'x'));
  try {
    make_sqlite_store(folder_ / "text", model_, "a model", 1);
    FAIL() << "that is no file of sessions";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("name a file of sessions"), std::string::npos) << error.what();
  }
  EXPECT_THROW(make_sqlite_store(folder_ / "no/such/folder", model_, "a model", 1), Error);
}

TEST_P(Stores, OneRequestAtATimeGoesOnWithASession) {
  Sessions sessions(open(), 3);
  const std::string id = sessions.create("me", point(1)).id;
  {
    Sessions::Lease lease = sessions.lease("me", id);
    EXPECT_THROW(sessions.lease("me", id), Sessions::InUse);
    EXPECT_THROW(sessions.erase("me", id), Sessions::InUse);
    EXPECT_EQ(*sessions.look("me", id).point, *point(1));
    lease.session.point = point(2);
    Sessions::Lease moved = std::move(lease);
    moved.save();
  }
  EXPECT_EQ(*sessions.lease("me", id).session.point, *point(2));
  EXPECT_THROW(sessions.lease("you", id), Sessions::NotFound);
  EXPECT_THROW(sessions.look("you", id), Sessions::NotFound);
  EXPECT_THROW(sessions.erase("you", id), Sessions::NotFound);
  sessions.create("me", point(1));
  sessions.create("you", point(1));
  EXPECT_THROW(sessions.create("me", point(1)), Sessions::TooMany);
  sessions.erase("me", id);
  sessions.create("me", point(1));
}

TEST_P(Stores, ForksShareTheStatesOfTheirParentAndComeAfterItInTheList) {
  Sessions sessions(open(), 100);
  const std::string id = sessions.create("me", point(1)).id;
  {
    Sessions::Lease lease = sessions.lease("me", id);
    lease.session.checkpoints["here"] = point(2);
    lease.save();
  }
  const int64_t bytes = sessions.bytes_in_memory();
  const std::vector<std::string> forks = sessions.fork(sessions.look("me", id), 50);
  ASSERT_EQ(forks.size(), 50u);
  EXPECT_EQ(sessions.count(), 51);
  if (GetParam() == "memory") {
    EXPECT_EQ(sessions.bytes_in_memory(), bytes);
  }
  std::vector<std::string> listed;
  for (const Session& session : sessions.list("me", id, 100)) listed.push_back(session.id);
  EXPECT_EQ(listed, forks);
  {
    Sessions::Lease lease = sessions.lease("me", forks[7]);
    EXPECT_EQ(lease.session.parent, id);
    EXPECT_EQ(*lease.session.checkpoints.at("here"), *point(2));
    lease.session.point = point(3);
    lease.save();
  }
  EXPECT_EQ(*sessions.look("me", id).point, *point(1));
  EXPECT_EQ(*sessions.look("me", forks[7]).point, *point(3));
  EXPECT_EQ(*sessions.look("me", forks[8]).point, *point(1));
  EXPECT_THROW(sessions.fork(sessions.look("me", id), 50), Sessions::TooMany);
  EXPECT_EQ(sessions.count(), 51);
}

TEST_P(Stores, NoOwnerHasMoreSessionsThanOneMay) {
  Sessions sessions(open(), 5, 2);
  const Session first = sessions.create("me", point(1));
  sessions.create("me", point(2));
  const auto refusal = [&](const auto& work) {
    try {
      work();
    } catch (const Sessions::TooMany& limit) {
      return limit.of_owner ? "an owner's" : "all";
    }
    return "none";
  };
  EXPECT_STREQ(refusal([&] { sessions.create("me", point(3)); }), "an owner's");
  EXPECT_STREQ(refusal([&] { sessions.fork(first, 1); }), "an owner's");
  const Session other = sessions.create("you", point(1));
  EXPECT_STREQ(refusal([&] { sessions.fork(other, 2); }), "an owner's");
  sessions.fork(other, 1);
  sessions.create("she", point(1));
  EXPECT_STREQ(refusal([&] { sessions.create("she", point(1)); }), "all");
  sessions.erase("me", first.id);
  sessions.create("me", point(3));
  EXPECT_EQ(sessions.count(), 5);
}

TEST_P(Stores, KnowHowManyEachOwnerHas) {
  {
    const auto store = open();
    for (const char* id : {"a", "b", "c"}) store->save({id, "me", "", 0, 0, point(1), {}});
    store->add({"a", "you", "", 0, 0, point(2), {}}, {"a", "b"});
    store->erase("me", "b");
    store->erase("me", "b");
    EXPECT_EQ(store->count_of("me"), 2);
    EXPECT_EQ(store->count_of("you"), 2);
    EXPECT_EQ(store->count_of("she"), 0);
  }
  if (GetParam() == "memory") return;
  EXPECT_EQ(open()->count_of("me"), 2) << "when it is opened again too";
}

TEST(MemoryStore, HoldsNoMoreStatesThanThereIsRoomFor) {
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  const auto point = [&] { return std::make_shared<const TextPoint>(beginning_of_text(model)); };
  const int64_t state = model.state_layout().bytes();
  const auto store = make_memory_store({4 * state, 3 * state});
  const auto refusal = [&](const auto& work) {
    try {
      work();
    } catch (const StoreFull& full) {
      return full.of_owner() ? "an owner's" : "all";
    }
    return "none";
  };
  Session session{"a", "me", "", 0, 0, point(), {{"here", point()}}};
  store->save(session);
  store->save({"b", "me", "", 0, 0, point(), {}});
  EXPECT_STREQ(refusal([&] { store->save({"c", "me", "", 0, 0, point(), {}}); }), "an owner's");
  store->add(session, {"f", "g"});  // which share its states
  EXPECT_EQ(store->bytes_in_memory(), 3 * state);
  // What goes on may, but not to more.
  session.point = point();
  EXPECT_STREQ(refusal([&] { store->save(session); }), "an owner's") << "its forks have the old one";
  EXPECT_NE(store->load("me", "a")->point, session.point);
  store->erase("me", "f");
  store->erase("me", "g");
  store->save(session);
  EXPECT_EQ(store->load("me", "a")->point, session.point);
  Session marked = session;
  marked.checkpoints["there"] = point();
  EXPECT_STREQ(refusal([&] { store->save(marked); }), "an owner's");
  EXPECT_EQ(store->load("me", "a")->checkpoints.size(), 1u);
  store->save({"a", "you", "", 0, 0, point(), {}});
  EXPECT_STREQ(refusal([&] { store->save({"b", "you", "", 0, 0, point(), {}}); }), "all");
  store->erase("me", "b");
  EXPECT_EQ(store->bytes_in_memory(), 3 * state);
  EXPECT_STREQ(refusal([&] { store->save({"b", "you", "", 0, 0, point(), {}}); }), "none");
  EXPECT_EQ(store->count(), 3);
}

// A disk that is full, as SQLite sees it: files may grow no more.
class FullDisk {
 public:
  FullDisk() {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
  }
  ~FullDisk() {
    grow_to(before_.rlim_cur);
    ::signal(SIGXFSZ, handler_);
  }
  void grow_to(rlim_t bytes) const {
    const rlimit limit = {bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  rlim_t any() const { return before_.rlim_cur; }

 private:
  rlimit before_;
  void (*handler_)(int);
};

TEST_P(SqliteStore, AFullDiskIsSaidToBeOneAndNothingIsLost) {
  const FullDisk disk;
  int saved = 0;
  {
    const auto store = open(1);
    store->save({"one", "me", "", 1, 1, point(7), {{"here", point(8)}}});
    disk.grow_to(200'000);
    EXPECT_THROW(
        {
          for (;; ++saved) store->save({std::to_string(saved), "me", "", 0, 0, point(saved), {}});
        },
        StoreFull);
    EXPECT_GT(saved, 20) << "the journal, which has no more room than the file, was begun anew";
    EXPECT_THROW(store->save({"one", "me", "", 2, 2, point(9), {}}), StoreFull);
    EXPECT_THROW(store->add({"one", "me", "", 2, 2, point(9), {}}, {"x", "y"}), StoreFull);
    for (const bool room : {false, true}) {
      if (room) disk.grow_to(disk.any());
      EXPECT_EQ(store->count(), 1 + saved);
      EXPECT_FALSE(store->load("me", std::to_string(saved)));
      EXPECT_FALSE(store->load("me", "x"));
      const auto one = store->load("me", "one");
      EXPECT_EQ(*one->point, *point(7)) << "as it was";
      EXPECT_EQ(*one->checkpoints.at("here"), *point(8));
      for (int i = 0; i < saved; ++i) EXPECT_EQ(*store->load("me", std::to_string(i))->point, *point(i));
    }
    store->save({"one", "me", "", 2, 2, point(9), {}});
  }
  const auto store = open();
  EXPECT_EQ(store->count_of("me"), 1 + saved);
  EXPECT_EQ(*store->load("me", "one")->point, *point(9));
}

TEST(PrefixCache, FindsTheLongestBeginningOfItsOwner) {
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  PrefixCache cache(1 << 20);
  const auto point = [&](int32_t pending) {
    TextPoint made = beginning_of_text(model);
    made.pending = pending;
    return made;
  };
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6};
  const std::span all(tokens);
  EXPECT_FALSE(cache.find("me", all));
  cache.insert("me", all.first(2), point(2));
  cache.insert("me", all.first(4), point(4));
  cache.insert("me", std::vector<int32_t>{1, 2, 3, 9}, point(9));
  const auto hit = cache.find("me", all);
  ASSERT_TRUE(hit);
  EXPECT_EQ(hit->tokens, 4);
  EXPECT_EQ(hit->point->pending, 4);
  EXPECT_EQ(cache.find("me", all.first(3))->tokens, 2);
  EXPECT_EQ(cache.find("me", std::vector<int32_t>{1, 2, 3, 9, 9})->point->pending, 9);
  EXPECT_FALSE(cache.find("me", std::vector<int32_t>{2, 2}));
  EXPECT_FALSE(cache.find("you", all));
}

TEST(PrefixCache, DropsWhatWasNotUsedForLongest) {
  Model model(tiny_config(*make_byte_tokenizer()), cpu_backend(), false);
  const int64_t one = model.state_layout().bytes() + 256;
  PrefixCache cache(3 * one);
  for (int32_t i = 0; i < 3; ++i) cache.insert("me", std::vector<int32_t>{i}, beginning_of_text(model));
  EXPECT_TRUE(cache.find("me", std::vector<int32_t>{0}));
  cache.insert("me", std::vector<int32_t>{3}, beginning_of_text(model));
  EXPECT_TRUE(cache.find("me", std::vector<int32_t>{0}));
  EXPECT_FALSE(cache.find("me", std::vector<int32_t>{1}));
  EXPECT_EQ(cache.entries(), 3);
  EXPECT_LE(cache.bytes(), 3 * one);
  PrefixCache small(one - 1);
  small.insert("me", std::vector<int32_t>{1}, beginning_of_text(model));
  EXPECT_EQ(small.entries(), 0);
}

// The caches of attention end there: a state that says more was not made by the model.
TEST(TextPoint, StandsNoFartherThanTheModelRemembers) {
  ModelConfig config = tiny_config(*make_byte_tokenizer());
  config.mixer = {"attention"};
  config.attention = {.n_heads = 2, .n_kv_heads = 2, .context = 100};
  const Model model(config, cpu_backend(), false);
  for (const uint64_t position : {uint64_t{100}, uint64_t{101}, kFarthestPosition - 1, ~uint64_t{0}}) {
    TextPoint point = beginning_of_text(model);
    std::memcpy(point.state.data(), &position, sizeof position);
    const auto decode = [&] { return decode_point(model, encode_point(point), "the state"); };
    if (position == 100) {
      EXPECT_EQ(decode().state.position(), 100u);
    } else {
      EXPECT_THROW(decode(), Error) << position;
    }
  }
}

class Seal : public ::testing::Test {
 protected:
  Seal() : model_(tiny_config(*make_byte_tokenizer()), cpu_backend(), false) {
    initialise_for_test(model_, 1);
  }
  std::string ring(const std::string& text, mode_t mode = 0600) const {
    const std::string path = folder_.file("ring", text);
    ::chmod(path.c_str(), mode);
    return path;
  }
  StateSeal make(const std::string& text, const std::string& identity = "model") const {
    return {ring(text), model_, identity};
  }

  TemporaryFolder folder_;
  Model model_;
  const std::string one_ = std::string(64, 'a') + "\n", two_ = std::string(64, 'b') + "\n";
};

TEST_F(Seal, ATokenOpensToTheSamePointOnAnyWorkerWithTheKey) {
  TextPoint point = beginning_of_text(model_);
  point.pending = 7;
  point.unfinished = "\xc3";
  const std::string token = make(one_).seal(point, "me", 100);
  EXPECT_EQ(make(one_).open(token, "me", 99), point);
  EXPECT_EQ(make(two_ + one_).open(token, "me", 0), point) << "an older key opens";
  EXPECT_NE(make(one_).seal(point, "me", 100), token) << "no nonce comes twice";
  EXPECT_EQ(token.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
            token.npos);
  const std::string newer = make(two_ + one_).seal(point, "me", 100);
  EXPECT_THROW(make(one_).open(newer, "me", 0), Error) << "the first key seals";
}

TEST_F(Seal, NothingElseOpens) {
  const StateSeal seal = make(one_);
  const std::string token = seal.seal(beginning_of_text(model_), "me", 100);
  EXPECT_THROW(seal.open(token, "me", 100), Error) << "expired";
  EXPECT_THROW(seal.open(token, "you", 0), Error);
  EXPECT_THROW(make(one_, "other").open(token, "me", 0), Error);
  EXPECT_THROW(make(two_).open(token, "me", 0), Error);
  EXPECT_THROW(seal.open("", "me", 0), Error);
  EXPECT_THROW(seal.open("AAAA", "me", 0), Error);
  EXPECT_THROW(seal.open("not base64!", "me", 0), Error);
  for (size_t i = 0; i < token.size(); i += 7) {
    std::string other = token;
    other[i] = other[i] == 'A' ? 'B' : 'A';
    EXPECT_THROW(seal.open(other, "me", 0), Error) << i;
    EXPECT_THROW(seal.open(token.substr(0, i), "me", 0), Error) << i;
  }
}

TEST_F(Seal, KeyringsThatOthersCanReadOrThatAreNotWholeAreRefused) {
  EXPECT_NO_THROW(StateSeal(ring(one_), model_, "model"));
  EXPECT_THROW(StateSeal(ring(one_, 0644), model_, "model"), Error);
  try {
    StateSeal(ring(one_, 0640), model_, "model");
    FAIL() << "others may read it";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("has mode 0640"), std::string::npos) << error.what();
  }
  std::string with_carriage_returns = one_;
  for (size_t at = 0; (at = with_carriage_returns.find('\n', at)) != std::string::npos; at += 2)
    with_carriage_returns.insert(at, "\r");
  EXPECT_NO_THROW(StateSeal(ring(with_carriage_returns), model_, "model"));
  EXPECT_THROW(StateSeal(ring(""), model_, "model"), Error);
  EXPECT_THROW(StateSeal(ring("abc\n"), model_, "model"), Error);
  EXPECT_THROW(StateSeal(ring(std::string(64, 'x') + "\n"), model_, "model"), Error);
  EXPECT_THROW(StateSeal(ring(std::string(66, 'a') + "\n"), model_, "model"), Error);
  EXPECT_THROW(StateSeal(folder_ / "missing", model_, "model"), Error);
}

}  // namespace
}  // namespace harmonic
