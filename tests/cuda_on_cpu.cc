#include "cuda_on_cpu.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

// Where nothing watches the stacks, fibers switch by a few instructions; a sanitizer knows the system's way.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HARMONIC_OWN_SWITCH 1
#endif

namespace cuda_on_cpu {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kMostThreads = 1024, kWarp = 32;

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "a kernel went astray: %s (block %u %u, thread %u)\n", what, block_index.x,
               block_index.y, thread_index.x);
  std::abort();
}

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#ifdef HARMONIC_OWN_SWITCH
// Saves the registers that a function must keep on the stack, and goes on where the other stack stopped.
extern "C" void harmonic_switch_stack(void** from, void* to);
asm(R"(
.text
.globl harmonic_switch_stack
.type harmonic_switch_stack, @function
harmonic_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size harmonic_switch_stack, .-harmonic_switch_stack
)");
#endif

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  std::unique_ptr<char[]> stack;
#ifdef HARMONIC_OWN_SWITCH
  void* at = nullptr;
#else
  ucontext_t context;
#endif
  void* known_as = nullptr;  // to the thread sanitizer
  std::vector<Copy> copies;  // under way
  enum class State { ready, at_barrier, at_exchange, done } state = State::ready;
};

struct Warp {
  uint64_t brought[kWarp];
  const void* shown[kWarp];
  int waiting = 0;
  int size = 0;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<uint64_t> shared_memory;
void (*thread_body)(const void*);
const void* thread_argument;
int current = 0, threads = 0;
bool within_fibers = false;
#ifdef HARMONIC_OWN_SWITCH
void* scheduler_at = nullptr;
#else
ucontext_t scheduler_context;
void* scheduler_known_as = nullptr;

// Tells the thread sanitizer, where there is one, which stack goes on.
void announce([[maybe_unused]] void* known_as) {
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(known_as, 0);
#endif
}
#endif
void yield(Fiber::State state) {
  Fiber& fiber = fibers[static_cast<size_t>(current)];
  fiber.state = state;
#ifdef HARMONIC_OWN_SWITCH
  harmonic_switch_stack(&fiber.at, scheduler_at);
#else
  announce(scheduler_known_as);
  swapcontext(&fiber.context, &scheduler_context);
#endif
}

void fiber_main() {
  thread_body(thread_argument);
  if (!fibers[static_cast<size_t>(current)].copies.empty())
    stop("a thread ends and its copies are under way");
  yield(Fiber::State::done);
  stop("a thread that had ended went on");
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStackBytes);
#ifdef __SANITIZE_THREAD__
  if (!fiber.known_as) fiber.known_as = __tsan_create_fiber(0);
  scheduler_known_as = __tsan_get_current_fiber();
#endif
  fiber.state = Fiber::State::ready;
#ifdef HARMONIC_OWN_SWITCH
  auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStackBytes) & ~uintptr_t{15};
  auto* slots = reinterpret_cast<void**>(top);
  slots[-1] = nullptr;                               // where fiber_main would return to
  slots[-2] = reinterpret_cast<void*>(&fiber_main);  // where the switch returns to
  for (int i = 3; i <= 8; ++i) slots[-i] = nullptr;  // the registers
  fiber.at = &slots[-8];
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
#endif
}

void resume(int thread) {
  current = thread;
  thread_index = {static_cast<unsigned>(thread), 0, 0};
#ifdef HARMONIC_OWN_SWITCH
  harmonic_switch_stack(&scheduler_at, fibers[static_cast<size_t>(thread)].at);
#else
  announce(fibers[static_cast<size_t>(thread)].known_as);
  swapcontext(&scheduler_context, &fibers[static_cast<size_t>(thread)].context);
#endif
}

void run_block() {
  if (fibers.size() < static_cast<size_t>(threads)) fibers.resize(static_cast<size_t>(threads));
  warps.assign(static_cast<size_t>((threads + kWarp - 1) / kWarp), {});
  for (int t = 0; t < threads; ++t) {
    prepare(fibers[static_cast<size_t>(t)]);
    ++warps[static_cast<size_t>(t / kWarp)].size;
  }
  int done = 0;
  while (done < threads) {
    int waiting = 0;
    bool progress = false;
    for (size_t w = 0; w < warps.size(); ++w) {
      // A warp goes on by itself as far as it can without the others.
      const int first = static_cast<int>(w) * kWarp, last = first + warps[w].size;
      for (bool moved = true; moved;) {
        moved = false;
        for (int t = first; t < last; ++t) {
          if (fibers[static_cast<size_t>(t)].state != Fiber::State::ready) continue;
          resume(t);
          moved = progress = true;
          done += fibers[static_cast<size_t>(t)].state == Fiber::State::done;
        }
        if (warps[w].waiting == 0) continue;
        if (warps[w].waiting != warps[w].size) stop("some lanes of a warp shuffle and others do not");
        warps[w].waiting = 0;
        for (int t = first; t < last; ++t) fibers[static_cast<size_t>(t)].state = Fiber::State::ready;
        moved = true;
      }
      for (int t = first; t < last; ++t)
        waiting += fibers[static_cast<size_t>(t)].state == Fiber::State::at_barrier;
    }
    if (waiting == threads) {
      for (int t = 0; t < threads; ++t) fibers[static_cast<size_t>(t)].state = Fiber::State::ready;
    } else if (waiting > 0 && done > 0) {
      stop("threads have ended while others wait at a barrier");
    } else if (!progress) {
      stop("no thread can go on");
    }
  }
}

}  // namespace

void barrier() {
  if (!within_fibers) stop("a barrier in a launch that was said to have none");
  yield(Fiber::State::at_barrier);
}

uint64_t exchange(uint64_t value, int from) {
  if (!within_fibers) stop("a shuffle in a launch that was said to have none");
  Warp& warp = warps[static_cast<size_t>(current / kWarp)];
  warp.brought[current % kWarp] = value;
  ++warp.waiting;
  yield(Fiber::State::at_exchange);
  const uint64_t result = warp.brought[from];
  // Nobody brings the next value before all have taken this one.
  ++warp.waiting;
  yield(Fiber::State::at_exchange);
  return result;
}

void* dynamic_shared_memory() { return shared_memory.data(); }

const void* const* show(const void* own) {
  if (!within_fibers) stop("an exchange in a launch that was said to have none");
  Warp& warp = warps[static_cast<size_t>(current / kWarp)];
  warp.shown[current % kWarp] = own;
  ++warp.waiting;
  yield(Fiber::State::at_exchange);
  return warp.shown;
}
void taken() {
  ++warps[static_cast<size_t>(current / kWarp)].waiting;
  yield(Fiber::State::at_exchange);
}

namespace {

constexpr uintptr_t kAlignment = 16;  // of what is read or written by so many bytes

void expect_in_shared_memory(const void* address, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(address),
             begin = reinterpret_cast<uintptr_t>(shared_memory.data());
  if (at % kAlignment != 0) stop("an address that is not a multiple of 16 bytes");
  if (at < begin || at + bytes > begin + shared_memory.size() * sizeof(uint64_t))
    stop("an address beyond the block's shared memory");
}
// Number `index` of the bf16 numbers that lie in words by twos.
float half_of(const uint32_t* words, int index) {
  const uint32_t bits = (words[index / 2] >> index % 2 * 16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

void begin_copy(void* to_shared, const void* from, size_t bytes) {
  expect_in_shared_memory(to_shared, bytes);
  if (reinterpret_cast<uintptr_t>(from) % kAlignment != 0)
    stop("a copy from an address that is not a multiple of 16 bytes");
  std::memset(to_shared, 0xFF, bytes);
  fibers[static_cast<size_t>(current)].copies.push_back({to_shared, from, bytes});
}
void finish_copies() {
  std::vector<Copy>& copies = fibers[static_cast<size_t>(current)].copies;
  for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
  copies.clear();
}

void load_matrices(uint32_t (&to)[4], const uint16_t* row, bool transposed) {
  expect_in_shared_memory(row, 8 * sizeof(uint16_t));
  const void* const* rows = show(row);
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto number = [&](int r, int c) -> uint32_t {
      return static_cast<const uint16_t*>(rows[matrix * 8 + (transposed ? c : r)])[transposed ? r : c];
    };
    const int r = lane() / 4, c = lane() % 4 * 2;
    to[matrix] = number(r, c) | number(r, c + 1) << 16;
  }
  taken();
}

void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint32_t a[4], b[2];
  } own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const void* const* lanes = show(&own);
  const auto of_lane = [&](int index) { return static_cast<const Fragments*>(lanes[index]); };
  for (int e = 0; e < 4; ++e) {
    const int row = lane() / 4 + e / 2 * 8, column = lane() % 4 * 2 + e % 2;
    for (int k = 0; k < 16; ++k) {
      const int owner = k % 8 / 2;
      sum[e] += half_of(&of_lane(row % 8 * 4 + owner)->a[row / 8 + k / 8 * 2], k % 2) *
                half_of(&of_lane(column * 4 + owner)->b[k / 8], k % 2);
    }
  }
  taken();
}

void run(dim3 grid, int threads_a_block, int64_t shared_bytes, void (*body)(const void*),
         const void* argument) {
  if (threads_a_block < 1 || threads_a_block > kMostThreads) stop("a block of too many threads");
  if (threads_a_block % kWarp != 0) stop("a block that is not of whole warps");
  if (shared_bytes > 227 << 10) stop("more shared memory than a block has");
  threads = threads_a_block;
  thread_body = body;
  thread_argument = argument;
  grid_size = grid;
  block_size = {static_cast<unsigned>(threads), 1, 1};
  shared_memory.resize(static_cast<size_t>(shared_bytes + 7) / 8 + 1);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        std::memset(shared_memory.data(), 0xFF, shared_memory.size() * 8);
        within_fibers = true;
        run_block();
        within_fibers = false;
      }
}

namespace {

std::vector<std::function<void()>> waiting_work;
int deferrals = 0;
bool recording = false;
Recording recorded;
std::map<const char*, int64_t> reachable;

}  // namespace

void submit(std::function<void()> work) {
  if (recording) return recorded.push_back(std::move(work));
  if (deferrals == 0) return work();
  waiting_work.push_back(std::move(work));
}
void complete() {
  if (recording) stop("what is being recorded was waited for");
  for (const auto& work : waiting_work) work();
  waiting_work.clear();
}
void begin_recording() { recording = true; }
Recording take_recording() {
  recording = false;
  return std::move(recorded);
}
Deferral::Deferral() { ++deferrals; }
Deferral::~Deferral() { --deferrals; }
bool deferring() { return deferrals > 0; }

void add_reachable(const void* memory, int64_t bytes) { reachable[static_cast<const char*>(memory)] = bytes; }
void remove_reachable(const void* memory) { reachable.erase(static_cast<const char*>(memory)); }
void expect_reachable(const void* memory) {
  if (deferrals == 0 || !memory) return;
  const auto* at = static_cast<const char*>(memory);
  const auto after = reachable.upper_bound(at);
  if (after == reachable.begin() || at > std::prev(after)->first + std::prev(after)->second)
    stop("a tensor lies in memory that kernels do not reach");
}

}  // namespace cuda_on_cpu
