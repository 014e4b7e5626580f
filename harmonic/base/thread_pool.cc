#include "harmonic/base/thread_pool.h"

#include <system_error>

#include "harmonic/base/error.h"
#include "harmonic/base/float_mode.h"
#include "harmonic/base/processors.h"

namespace harmonic {
namespace {

// Some tens of microseconds: longer than the gap between two ops of a step.
constexpr int kSpins = 4000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const int processors = available_processors();
  if (threads <= 0) threads = processors;
  // A thread that spins would keep another from the processor that they share.
  spins_ = threads > processors ? 0 : kSpins;
  workers_.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    const int started = this->threads();
    end_workers();
    fail("{} threads were asked for and only {} could be started: {}; ask for fewer (--threads)", threads,
         started, error.code().message());
  }
}

ThreadPool::~ThreadPool() { end_workers(); }

void ThreadPool::end_workers() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::take_part(Function function, const void* body, int64_t count) {
  try {
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) break;
      function(body, i);
    }
  } catch (...) {
    next_.store(count);
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run(int64_t count, Function function, const void* body) {
  if (count <= 0) return;
  FlushToZero mode;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) function(body, i);
    return;
  }
  function_ = function;
  body_ = body;
  count_ = count;
  next_.store(0);
  busy_.store(static_cast<int>(workers_.size()));
  {
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  take_part(function, body, count);
  for (int spin = 0; spin < spins_ && busy_.load(std::memory_order_acquire) != 0; ++spin) relax();
  if (busy_.load(std::memory_order_acquire) != 0) {
    // Sleeps rather than yields: the scheduler of Linux takes it from a thread that yields often.
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return busy_.load() == 0; });
  }
  if (error_) {
    std::exception_ptr error;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

void ThreadPool::work() {
  FlushToZero mode;
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < spins_ && generation_.load(std::memory_order_acquire) == seen; ++spin) relax();
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    take_part(function_, body_, count_);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

}  // namespace harmonic
