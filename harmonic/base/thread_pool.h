// A pool of threads that run one loop at a time. Workers wait briefly by spinning, then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace harmonic {

class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts none. 0 means one for each processor this process may use. Throws
  // Error when the system gives fewer.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i) once for each i in [0, count), in no particular order, on any thread, and returns when all
  // are done. An exception of the body is rethrown here (the first one). Not reentrant: a body must not call
  // it; only one thread may use a pool at a time. Bodies run with flush-to-zero set.
  template <typename Body>
  void parallel_for(int64_t count, const Body& body) {
    run(
        count, [](const void* f, int64_t i) { (*static_cast<const Body*>(f))(i); }, &body);
  }

  // Splits [0, count) into at most `threads()` ranges of whole multiples of `grain` and calls body(begin,
  // end).
  template <typename Body>
  void parallel_ranges(int64_t count, int64_t grain, const Body& body) {
    const int64_t grains = (count + grain - 1) / grain;
    const int64_t parts = std::min<int64_t>(grains, threads());
    parallel_for(parts, [&](int64_t part) {
      const int64_t begin = grains * part / parts * grain;
      const int64_t end = std::min(count, grains * (part + 1) / parts * grain);
      if (begin < end) body(begin, end);
    });
  }

 private:
  using Function = void (*)(const void*, int64_t);
  void run(int64_t count, Function function, const void* body);
  void work();
  void end_workers();
  void take_part(Function function, const void* body, int64_t count);

  int spins_ = 0;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stop_{false};
  // The current job; written before generation_ is raised, read by workers after they saw it.
  Function function_ = nullptr;
  const void* body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::exception_ptr error_;
  std::mutex error_mutex_;
};

}  // namespace harmonic
