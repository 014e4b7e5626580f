#include "harmonic/ops/cuda_recorder.h"

#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "harmonic/ops/cuda_device.h"

namespace harmonic::cuda {
namespace {

// A graph and the lists that its kernels read. The lists are filled in on the program's side while the work
// is recorded, and copied together at its end.
class Recording {
 public:
  Recording() = default;
  ~Recording() {
    if (graph_) cudaGraphExecDestroy(graph_);
    for (const Chunk& chunk : chunks_) cudaFree(chunk.device);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  const void* list(const void* numbers, int64_t bytes) {
    const int64_t size = (bytes + 15) / 16 * 16;
    if (chunks_.empty() || used_ + size > static_cast<int64_t>(chunks_.back().numbers.size()))
      add_chunk(std::max(size, kChunkBytes));
    Chunk& chunk = chunks_.back();
    std::memcpy(chunk.numbers.data() + used_, numbers, static_cast<size_t>(bytes));
    const void* result = chunk.device + used_;
    used_ += size;
    return result;
  }
  void finish(cudaGraph_t graph) {
    const cudaError_t answer = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(answer, "making a graph");
    for (Chunk& chunk : chunks_) {
      check(cudaMemcpyAsync(chunk.device, chunk.numbers.data(), chunk.numbers.size(), cudaMemcpyHostToDevice,
                            stream()),
            "a copy");
      check(cudaStreamSynchronize(stream()), "a copy");
      chunk.numbers = std::vector<char>();
    }
  }
  void replay() const { check(cudaGraphLaunch(graph_, stream()), "a graph"); }

 private:
  static constexpr int64_t kChunkBytes = 64 << 10;
  struct Chunk {
    char* device = nullptr;
    std::vector<char> numbers;
  };
  void add_chunk(int64_t bytes) {
    Chunk chunk;
    check(cudaMalloc(reinterpret_cast<void**>(&chunk.device), static_cast<size_t>(bytes)), "memory");
    chunk.numbers.resize(static_cast<size_t>(bytes));
    chunks_.push_back(std::move(chunk));
    used_ = 0;
  }

  cudaGraphExec_t graph_ = nullptr;
  std::vector<Chunk> chunks_;
  int64_t used_ = 0;
};

class Recorder : public WorkRecorder {
 public:
  void begin() override {
    HARMONIC_ASSERT(!current_);
    auto recording = std::make_unique<Recording>();
    check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "recording");
    current_ = std::move(recording);
  }
  int64_t end() override {
    std::unique_ptr<Recording> recording = std::move(current_);
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream(), &graph), "recording");
    recording->finish(graph);
    const int64_t number = next_++;
    all_[number] = std::move(recording);
    return number;
  }
  void abandon() noexcept override {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream(), &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // what it answers has been told, or is no fault of what comes next
    current_.reset();
  }
  void replay(int64_t recording) override { all_.at(recording)->replay(); }
  void forget(int64_t recording) noexcept override {
    cudaStreamSynchronize(stream());
    all_.erase(recording);
  }
  const void* list(const void* numbers, int64_t bytes) {
    return current_ ? current_->list(numbers, bytes) : nullptr;
  }

 private:
  std::unique_ptr<Recording> current_;
  std::map<int64_t, std::unique_ptr<Recording>> all_;
  int64_t next_ = 0;
};

Recorder& the_recorder() {
  // Lives as long as the driver, which may be gone before what ends with the program.
  static auto* only = new Recorder;
  return *only;
}

}  // namespace

WorkRecorder& recorder() { return the_recorder(); }
const void* recorded_list(const void* list, int64_t bytes) { return the_recorder().list(list, bytes); }

}  // namespace harmonic::cuda
