// Sessions and their stores.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstring>
#include <optional>

#include "harmonic/runtime/redis_connection.h"
#include "harmonic/runtime/sessions.h"
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

// The caches of attention end there: a state that says more was not made by the model.

}  // namespace
}  // namespace harmonic
