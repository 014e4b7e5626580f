#include "emulated_cuda.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

#include "harmonic/ops/cuda_card.h"
#include "harmonic/ops/cuda_rounding.h"
#include "harmonic/ops/cuda_table.h"

namespace harmonic {
namespace cuda {
namespace {

Precision used = Precision::f32;

}  // namespace

// Copies, of which only the last few are kept where nothing is deferred: an op that read the caller's own, or
// one of long ago, is noticed by what it computes.
const void* staged_bytes(const void* list, int64_t bytes) {
  constexpr size_t kKept = 16;
  static std::deque<std::vector<uint64_t>> copies;
  if (!list) return nullptr;
  while (!cuda_on_cpu::deferring() && copies.size() >= kKept) copies.pop_front();
  std::vector<uint64_t>& copy = copies.emplace_back();
  copy.assign(static_cast<size_t>(bytes) / 8 + 1, ~uint64_t{0});
  if (bytes > 0) std::memcpy(copy.data(), list, static_cast<size_t>(bytes));
  return copy.data();
}

void synchronize() { cuda_on_cpu::complete(); }
int64_t most_shared_bytes() { return 227 << 10; }

Precision precision() { return used; }
UsePrecision::UsePrecision(Precision precision) : before_(used) { used = precision; }
UsePrecision::~UsePrecision() { used = before_; }

namespace {

void compute(const Product& product, bool rounds) {
  const int64_t M = product.result.rows, N = product.result.cols;
  const int64_t K = product.a_transposed ? product.a.rows : product.a.cols;
  HARMONIC_ASSERT((product.a_transposed ? product.a.cols : product.a.rows) == M);
  HARMONIC_ASSERT((product.b_transposed ? product.b.rows : product.b.cols) == N);
  HARMONIC_ASSERT((product.b_transposed ? product.b.cols : product.b.rows) == K);
  const auto dense = [&](const Tensor& matrix, bool transposed) {
    std::vector<float> numbers(static_cast<size_t>(matrix.size()));
    for (int64_t r = 0; r < matrix.rows; ++r)
      for (int64_t c = 0; c < matrix.cols; ++c) {
        const int64_t at = r * matrix.stride + c;
        float number = 0;
        if (matrix.dtype == DType::f16) {
          number = static_cast<const F16*>(matrix.data)[at].value();
        } else if (matrix.dtype == DType::bf16) {
          number = static_cast<const Bf16*>(matrix.data)[at].value();
        } else {
          number = matrix.as<float>()[at];
          if (rounds) number = Bf16::of(number).value();
        }
        numbers[static_cast<size_t>(transposed ? c * matrix.rows + r : r * matrix.cols + c)] = number;
      }
    return numbers;
  };
  const std::vector<float> a = dense(product.a, product.a_transposed),
                           b = dense(product.b, product.b_transposed);
  std::vector<float> sums(static_cast<size_t>(N));
  for (int64_t m = 0; m < M; ++m) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t k = 0; k < K; ++k) {
      const float factor = a[static_cast<size_t>(m * K + k)];
      const float* row = b.data() + k * N;
      for (int64_t n = 0; n < N; ++n) sums[static_cast<size_t>(n)] += factor * row[n];
    }
    for (int64_t n = 0; n < N; ++n) {
      const float sum = (product.base ? product.base.row<float>(m)[n] : 0) +
                        (product.bias ? product.bias.as<float>()[n] : 0) +
                        product.factor * sums[static_cast<size_t>(n)];
      if (product.result.dtype == DType::f16) {
        static_cast<F16*>(product.result.data)[m * product.result.stride + n] = F16::of(sum);
      } else {
        product.result.row<float>(m)[n] = sum;
      }
    }
  }
}

}  // namespace

void multiply(Context&, const Product& product) {
  for (const Tensor* tensor : {&product.a, &product.b, &product.result, &product.base, &product.bias})
    cuda_on_cpu::expect_reachable(tensor->data);
  cuda_on_cpu::submit([product, rounds = used == Precision::bf16] {
    const auto part = [&](const Tensor& tensor, int64_t i) {
      const int64_t rows = tensor.rows / product.batch;
      return tensor ? tensor.rows_of(i * rows, rows) : tensor;
    };
    for (int64_t i = 0; i < product.batch; ++i) {
      Product one = product;
      one.batch = 1;
      for (Tensor Product::*tensor : {&Product::a, &Product::b, &Product::result, &Product::base})
        one.*tensor = part(product.*tensor, i);
      compute(one, rounds);
    }
  });
}

void fill_zero(void* memory, int64_t rows, int64_t row_bytes, int64_t stride_bytes) {
  cuda_on_cpu::submit([=] {
    for (int64_t r = 0; r < rows; ++r)
      std::memset(static_cast<char*>(memory) + r * stride_bytes, 0, static_cast<size_t>(row_bytes));
  });
}

namespace {

// Memory apart from the program's, which alone the kernels reach; what is given back is overwritten.
class OwnMemory : public MemorySource {
 public:
  void* allocate(int64_t bytes, MemoryUse) override {
    void* memory = std::aligned_alloc(64, static_cast<size_t>(bytes));
    std::memset(memory, 0xFF, static_cast<size_t>(bytes));
    cuda_on_cpu::add_reachable(memory, bytes);
    return memory;
  }
  void release(void* memory, MemoryUse) noexcept override {
    cuda_on_cpu::complete();
    cuda_on_cpu::remove_reachable(memory);
    std::free(memory);
  }
};

template <typename Op>
void run_later(Context& context, const Op& op) {
  const cuda_on_cpu::Deferral deferral;
  run_in<Precision::f32>(context, op);
}
template <typename... Ops>
OpTable<Ops...> later_table(const OpTable<Ops...>*) {
  return {{static_cast<void (*)(Context&, const Ops&)>(&run_later<Ops>)...}};
}
// As of a card: lists are kept as they were, which copies that are staged while all is deferred are anyway.
class Recorder : public WorkRecorder {
 public:
  void begin() override { cuda_on_cpu::begin_recording(); }
  int64_t end() override {
    all_.push_back(cuda_on_cpu::take_recording());
    return static_cast<int64_t>(all_.size()) - 1;
  }
  void abandon() noexcept override { cuda_on_cpu::take_recording(); }
  void replay(int64_t recording) override {
    const cuda_on_cpu::Deferral deferral;
    for (const auto& work : all_.at(static_cast<size_t>(recording))) cuda_on_cpu::submit(work);
    ++replays;
  }
  void forget(int64_t recording) noexcept override { all_.at(static_cast<size_t>(recording)).clear(); }

  int64_t replays = 0;

 private:
  std::vector<cuda_on_cpu::Recording> all_;
};
Recorder the_recorder;

void fill_zero_later(void* memory, int64_t rows, int64_t row_bytes, int64_t stride_bytes) {
  const cuda_on_cpu::Deferral deferral;
  fill_zero(memory, rows, row_bytes, stride_bytes);
}

}  // namespace
}  // namespace cuda

bool a_card_is_tested() {
  const char* device = std::getenv("HARMONIC_TEST_DEVICE");
  return device && std::string_view(device) == "cuda";
}

const Backend& emulated_cuda_backend() {
  static const Backend backend{"cuda kernels on the cpu", DType::f32, Device::cuda,
                               cuda::table<Precision::f32>()};
  return backend;
}

const Backend& emulated_cuda_bf16_backend() {
  static const Backend backend{"cuda kernels on the cpu, bf16", DType::f32, Device::cuda,
                               cuda::table<Precision::bf16>()};
  return backend;
}

const Backend& emulated_cuda_device_backend() {
  static cuda::OwnMemory memory;
  static const Backend backend{"cuda kernels on the cpu, later",
                               DType::f32,
                               Device::cuda,
                               cuda::later_table(static_cast<const AllOps*>(nullptr)),
                               nullptr,
                               &memory,
                               &cuda_on_cpu::complete,
                               &cuda::fill_zero_later,
                               Precision::f32,
                               &cuda::the_recorder};
  return backend;
}

int64_t emulated_replays() { return cuda::the_recorder.replays; }

}  // namespace harmonic
