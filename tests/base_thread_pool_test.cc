#include "harmonic/base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>

#include "harmonic/base/error.h"
#include "harmonic/base/processors.h"

namespace harmonic {
namespace {

TEST(ThreadPool, CountsTheCallerAndHasAtLeastOneThread) {
  EXPECT_EQ(ThreadPool(1).threads(), 1);
  EXPECT_EQ(ThreadPool(3).threads(), 3);
  EXPECT_EQ(ThreadPool(0).threads(), available_processors());
}

TEST(ThreadPool, CallsTheBodyOnceForEveryIndex) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int64_t count : {1, 2, 3, 7, 8, 1000}) {
      std::vector<int> calls(static_cast<size_t>(count));  // not atomic: each index belongs to one call
      pool.parallel_for(count, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
      EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(count), 1)) << threads << " threads";
    }
  }
}

TEST(ThreadPool, WhatTheBodiesWroteIsSeenAfterTheLoop) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64);
  for (int64_t round = 1; round <= 500; ++round) {
    pool.parallel_for(64, [&](int64_t i) { values[static_cast<size_t>(i)] += i * round; });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], i * round * (round + 1) / 2);
  }
}

TEST(ThreadPool, DoesNothingForNoItems) {
  ThreadPool pool(2);
  pool.parallel_for(0, [](int64_t) { FAIL(); });
  pool.parallel_for(-3, [](int64_t) { FAIL(); });
  pool.parallel_ranges(0, 8, [](int64_t, int64_t) { FAIL(); });
}

TEST(ThreadPool, RangesCoverEverythingOnceInWholeGrains) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (const int64_t count : {1, 7, 16, 17, 100, 1001}) {
      for (const int64_t grain : {1, 8, 64}) {
        std::vector<int> covered(static_cast<size_t>(count));
        std::atomic<int> ranges{0};
        pool.parallel_ranges(count, grain, [&](int64_t begin, int64_t end) {
          ++ranges;
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end % grain == 0 || end == count);
          for (int64_t i = begin; i < end; ++i) ++covered[static_cast<size_t>(i)];
        });
        EXPECT_EQ(covered, std::vector<int>(static_cast<size_t>(count), 1));
        EXPECT_LE(ranges, threads);
      }
    }
  }
}

TEST(ThreadPool, AnExceptionOfABodyReachesTheCallerAndThePoolGoesOn) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int64_t thrower = 0; thrower < 40; ++thrower) {
      try {
        pool.parallel_for(40, [&](int64_t i) {
          if (i == thrower) throw std::runtime_error("index " + std::to_string(i));
        });
        ADD_FAILURE() << "no exception of index " << thrower;
      } catch (const std::runtime_error& error) {
        EXPECT_EQ(error.what(), "index " + std::to_string(thrower));
      }
      std::atomic<int> calls{0};
      pool.parallel_for(10, [&](int64_t) { ++calls; });
      EXPECT_EQ(calls, 10);
    }
  }
}

TEST(ThreadPool, OfManyExceptionsOneReachesTheCaller) {
  ThreadPool pool(4);
  for (int round = 0; round < 50; ++round)
    EXPECT_THROW(pool.parallel_for(100, [](int64_t i) { throw i; }), int64_t);
  pool.parallel_for(100, [](int64_t) {});  // none of them is left over
}

TEST(ThreadPool, SeveralPoolsWorkAtOnce) {
  std::vector<std::thread> users;
  std::atomic<int64_t> total{0};
  for (int user = 0; user < 4; ++user) {
    users.emplace_back([&] {
      ThreadPool pool(3);
      for (int round = 0; round < 100; ++round) pool.parallel_for(10, [&](int64_t i) { total += i; });
    });
  }
  for (std::thread& user : users) user.join();
  EXPECT_EQ(total, 4 * 100 * 45);
}

TEST(ThreadPool, MayBeMadeAndEndedWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

TEST(ThreadPool, MorePoolThreadsThanItemsIsFine) {
  ThreadPool pool(16);
  std::mutex mutex;
  std::set<int64_t> seen;
  pool.parallel_for(3, [&](int64_t i) {
    const std::lock_guard lock(mutex);
    seen.insert(i);
  });
  EXPECT_EQ(seen, (std::set<int64_t>{0, 1, 2}));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they need more address space
TEST(ThreadPool, MoreThreadsThanTheSystemGivesIsAnErrorAndNoHang) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    const rlimit room{256 << 20, 256 << 20};  // for the stacks of some threads
    ::setrlimit(RLIMIT_AS, &room);
    try {
      ThreadPool pool(4000);
    } catch (const Error& error) {
      ::_exit(std::string(error.what()).find("--threads") != std::string::npos ? 7 : 8);
    }
    ::_exit(9);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}
#endif

#if defined(__x86_64__) || defined(__aarch64__)
TEST(ThreadPool, BodiesFlushSubnormalNumbersAndTheCallersModeComesBack) {
  volatile float smallest = std::numeric_limits<float>::min();
  ThreadPool pool(3);
  std::vector<float> halves(200, -1);
  pool.parallel_for(200, [&](int64_t i) { halves[static_cast<size_t>(i)] = smallest / 2; });
  EXPECT_EQ(halves, std::vector<float>(200, 0));
  EXPECT_GT(smallest / 2, 0);
}
#endif

// A thread that yielded instead would be ready to run, and Linux makes one that yields often come last.
TEST(ThreadPool, WhoWaitsForAWorkerSleeps) {
  ThreadPool pool(2);
  const auto caller = std::this_thread::get_id();
  const std::string file = "/proc/self/task/" + std::to_string(gettid()) + "/stat";
  std::atomic<bool> begun = false;
  std::string states;
  pool.parallel_for(2, [&](int64_t) {
    const auto pause = [] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); };
    if (std::this_thread::get_id() == caller) {
      while (!begun) pause();
      return;
    }
    begun = true;
    for (int i = 0; i < 4; ++i) {
      pause();
      std::string line;
      std::getline(std::ifstream(file), line);
      states += line.substr(line.rfind(')') + 2, 1);
    }
  });
  EXPECT_EQ(states.back(), 'S') << states;  // at first it still returns from its own part, and spins
}

}  // namespace
}  // namespace harmonic
