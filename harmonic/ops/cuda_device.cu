#include "harmonic/ops/cuda_device.h"

#include <cublasLt.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>

#include "harmonic/ops/cuda_card.h"
#include "harmonic/ops/cuda_kernel.h"
#include "harmonic/ops/cuda_recorder.h"
#include "harmonic/ops/cuda_rounding.h"

namespace harmonic {
namespace cuda {

void check(cudaError_t answer, const char* what) {
  if (answer == cudaSuccess) return;
  fail("the card failed at {}: error {} ({}): {}", what, static_cast<int>(answer), cudaGetErrorName(answer),
       cudaGetErrorString(answer));
}

cudaStream_t stream() {
  static const cudaStream_t only = [] {
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "making a stream");
    return made;
  }();
  return only;
}

int64_t most_shared_bytes() {
  static const int bytes = [] {
    int device = 0, most = 0;
    check(cudaGetDevice(&device), "asking what it is");
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          "asking what it is");
    return most;
  }();
  return bytes;
}

void synchronize() { check(cudaStreamSynchronize(stream()), "waiting for it"); }

namespace {

void check(cublasStatus_t answer, const char* what) {
  if (answer != CUBLAS_STATUS_SUCCESS)
    fail("the card failed at {}: cuBLASLt answers {}", what, cublasLtGetStatusString(answer));
}

// Lists on their way to the card: copied into pinned memory, from there into the same place of a device
// buffer. Both are rings; where one begins anew, all that was asked for is waited for. A list that was copied
// a short while ago is there already: the ops of a step ask for the same segments again and again.
class Staging {
 public:
  const void* copy(const void* list, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (const void* known = find(list, bytes)) return known;
    const int64_t size = (bytes + 255) / 256 * 256;
    if (size > capacity_ / kShare) grow(std::max(size * kShare, 2 * capacity_));
    if (used_ + size > capacity_) {
      synchronize();
      used_ = 0;
      recent_ = {};
    }
    std::memcpy(host_ + used_, list, static_cast<size_t>(bytes));
    cuda::check(cudaMemcpyAsync(device_ + used_, host_ + used_, static_cast<size_t>(bytes),
                                cudaMemcpyHostToDevice, stream()),
                "a copy");
    const void* result = device_ + used_;
    recent_[next_++ % recent_.size()] = {used_, bytes};
    used_ += size;
    return result;
  }

 private:
  struct Copied {
    int64_t begin = 0, bytes = -1;
  };
  // None so long ago that the lists which the op at hand is yet to copy might be written over it.
  const void* find(const void* list, int64_t bytes) const {
    for (const Copied& copied : recent_)
      if (copied.bytes == bytes && copied.begin >= used_ - capacity_ / 2 &&
          std::memcmp(host_ + copied.begin, list, static_cast<size_t>(bytes)) == 0)
        return device_ + copied.begin;
    return nullptr;
  }

  // A list takes no more of the ring: an op needs several, of which none may be written over before its
  // kernels have been asked for.
  static constexpr int64_t kShare = 16;

  // What the op at hand has copied already lies in the old rings, which stay: together they are smaller than
  // the new one.
  void grow(int64_t capacity) {
    capacity = std::max<int64_t>(capacity, 32 << 20);
    char *host = nullptr, *device = nullptr;
    cuda::check(cudaMallocHost(reinterpret_cast<void**>(&host), static_cast<size_t>(capacity)),
                "pinned memory");
    cuda::check(cudaMalloc(reinterpret_cast<void**>(&device), static_cast<size_t>(capacity)), "memory");
    host_ = host;
    device_ = device;
    capacity_ = capacity;
    used_ = 0;
    recent_ = {};
  }

  std::mutex mutex_;
  char *host_ = nullptr, *device_ = nullptr;
  int64_t capacity_ = 0, used_ = 0;
  std::array<Copied, 32> recent_;  // that lie where they were copied to
  size_t next_ = 0;
};

thread_local Precision used_precision = Precision::f32;

class ManagedMemory : public MemorySource {
 public:
  void* allocate(int64_t bytes, MemoryUse use) override {
    void* memory = nullptr;
    if (use == MemoryUse::shared) {
      cuda::check(cudaMallocHost(&memory, static_cast<size_t>(bytes)), "pinned memory");
      return memory;
    }
    cuda::check(cudaMallocManaged(&memory, static_cast<size_t>(bytes)), "memory");
    int device = 0;
    cuda::check(cudaGetDevice(&device), "memory");
    const cudaMemLocation here{cudaMemLocationTypeDevice, device};
    cuda::check(cudaMemAdvise(memory, static_cast<size_t>(bytes), cudaMemAdviseSetPreferredLocation, here),
                "memory");
    cuda::check(cudaMemPrefetchAsync(memory, static_cast<size_t>(bytes), here, 0, stream()), "memory");
    return memory;
  }
  void release(void* memory, MemoryUse use) noexcept override {
    // What still uses it ends first. An answer of failure has been told by then, or will be.
    cudaStreamSynchronize(stream());
    use == MemoryUse::shared ? cudaFreeHost(memory) : cudaFree(memory);
  }
};

// --- Matrix products ---

constexpr size_t kWorkspaceBytes = 32 << 20;

// One of a batch of matrices, the next of which has its rows below this one's.
struct Matrix {
  const void* data;
  cudaDataType_t type;
  int64_t rows, cols, stride;  // of rows as they lie
};

// The largest power of two up to 16 that an address is a multiple of.
uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  return static_cast<uint32_t>(address == 0 ? 16 : std::min<uintptr_t>(16, address & (~address + 1)));
}

template <typename T, cublasStatus_t (*destroy)(T)>
struct Owned {
  T handle = nullptr;
  ~Owned() {
    if (handle) destroy(handle);
  }
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

// cuBLASLt's matrices have columns that lie together: rows of ours are columns of its.
void make_layout(Layout& layout, const Matrix& matrix, int32_t batch) {
  check(cublasLtMatrixLayoutCreate(&layout.handle, matrix.type, static_cast<uint64_t>(matrix.cols),
                                   static_cast<uint64_t>(matrix.rows), matrix.stride),
        "a matrix product");
  if (batch == 1) return;
  const int64_t distance = matrix.rows * matrix.stride;
  check(cublasLtMatrixLayoutSetAttribute(layout.handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                         sizeof(batch)),
        "a matrix product");
  check(cublasLtMatrixLayoutSetAttribute(layout.handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &distance, sizeof(distance)),
        "a matrix product");
}

class Products {
 public:
  Products() {
    check(cublasLtCreate(&handle_), "opening cuBLASLt");
    cuda::check(cudaMalloc(&workspace_, kWorkspaceBytes), "memory");
  }

  // result^T = factor * op(b)^T op(a)^T + base^T, as the library sees it. False where it has no way to add a
  // bias in the same launch.
  bool run(const Matrix& a, bool a_transposed, const Matrix& b, bool b_transposed, const Matrix& base,
           const Matrix& result, float factor, bool adds, const float* bias, int32_t batch) {
    const std::lock_guard lock(mutex_);
    Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> description;
    check(cublasLtMatmulDescCreate(&description.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a matrix product");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulDescSetAttribute(description.handle, attribute, &value, sizeof(value)),
            "a matrix product");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (bias) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    Layout first, second, third, fourth;
    make_layout(first, b, batch);
    make_layout(second, a, batch);
    make_layout(third, base, batch);
    make_layout(fourth, result, batch);
    const uint32_t aligned[] = {alignment_of(a.data), alignment_of(b.data), alignment_of(base.data),
                                alignment_of(result.data)};
    const Key key{a.rows,
                  a.cols,
                  a.stride,
                  b.rows,
                  b.cols,
                  b.stride,
                  base.stride,
                  result.stride,
                  aligned[0],
                  aligned[1],
                  aligned[2],
                  aligned[3],
                  int64_t{a.type},
                  a_transposed,
                  b_transposed,
                  adds,
                  bias != nullptr,
                  int64_t{result.type},
                  batch};
    auto found = chosen_.find(key);
    if (found == chosen_.end())
      found = chosen_.emplace(key, choose(description.handle, first, second, third, fourth, aligned)).first;
    if (!found->second.found) {
      if (bias) return false;
      fail("the card has no way to multiply matrices of {} x {} and {} x {}", a.rows, a.cols, b.rows, b.cols);
    }
    const float beta = adds ? 1.0f : 0.0f;
    check(cublasLtMatmul(handle_, description.handle, &factor, b.data, first.handle, a.data, second.handle,
                         &beta, base.data, third.handle, const_cast<void*>(result.data), fourth.handle,
                         &found->second.algorithm, workspace_, kWorkspaceBytes, stream()),
          "a matrix product");
    return true;
  }

 private:
  struct Choice {
    bool found = false;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  // All that the choice depends on. An array: comparing a tuple of as many takes nvcc minutes.
  using Key = std::array<int64_t, 19>;

  Choice choose(cublasLtMatmulDesc_t description, const Layout& b, const Layout& a, const Layout& base,
                const Layout& result, const uint32_t* aligned) {
    Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
    check(cublasLtMatmulPreferenceCreate(&preference.handle), "a matrix product");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof(value)),
            "a matrix product");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned[1]);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned[0]);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned[2]);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned[3]);
    // Where k is split, parts are summed in f32 and in order.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE} | uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    cublasLtMatmulHeuristicResult_t best = {};
    int count = 0;
    const cublasStatus_t answer =
        cublasLtMatmulAlgoGetHeuristic(handle_, description, b.handle, a.handle, base.handle, result.handle,
                                       preference.handle, 1, &best, &count);
    if (answer != CUBLAS_STATUS_NOT_SUPPORTED) check(answer, "a matrix product");
    return {answer == CUBLAS_STATUS_SUCCESS && count > 0, best.algo};
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, Choice> chosen_;
};

Matrix as_it_is(const Tensor& tensor, int64_t batch) {
  const cudaDataType_t type = tensor.dtype == DType::bf16  ? CUDA_R_16BF
                              : tensor.dtype == DType::f16 ? CUDA_R_16F
                                                           : CUDA_R_32F;
  return {tensor.data, type, tensor.rows / batch, tensor.cols, std::max(tensor.stride, tensor.cols)};
}

// result = base + bias
void write_base(const Product& product) {
  const Rows to = rows_of(product.result), base = rows_of(product.base), bias = rows_of(product.bias);
  const int64_t cols = product.result.cols;
  for_each_element(product.result.rows, cols, [=] __device__(int64_t r, int64_t c) {
    to[r][c] = (base ? base[r][c] : 0) + (bias ? bias[0][c] : 0);
  });
}

}  // namespace

const void* staged_bytes(const void* list, int64_t bytes) {
  static Staging staging;
  if (!list) return nullptr;
  if (const void* recorded = recorded_list(list, bytes)) return recorded;
  return staging.copy(list, bytes);
}

Precision precision() { return used_precision; }
UsePrecision::UsePrecision(Precision precision) : before_(used_precision) { used_precision = precision; }
UsePrecision::~UsePrecision() { used_precision = before_; }

void fill_zero(void* memory, int64_t rows, int64_t row_bytes, int64_t stride_bytes) {
  if (rows == 0 || row_bytes == 0) return;
  if (rows == 1 || row_bytes == stride_bytes) {
    check(cudaMemsetAsync(memory, 0, static_cast<size_t>(rows * row_bytes), stream()), "setting to zero");
  } else {
    check(cudaMemset2DAsync(memory, static_cast<size_t>(stride_bytes), 0, static_cast<size_t>(row_bytes),
                            static_cast<size_t>(rows), stream()),
          "setting to zero");
  }
}

void multiply(Context& context, const Product& product) {
  static Products products;
  const Tensor& result = product.result;
  const int64_t batch = product.batch, inner = product.a_transposed ? product.a.rows : product.a.cols;
  HARMONIC_ASSERT(batch == 1 || !product.bias);
  if (result.size() == 0) return;
  if (inner == 0) return write_base(product);
  const ArenaScope scope(context.scratch);
  const auto input = [&](const Tensor& tensor) {
    const bool rounds = precision() == Precision::bf16 && tensor.dtype == DType::f32;
    return as_it_is(rounds ? rounded_to_bf16(context, tensor) : tensor, batch);
  };
  const Matrix a = input(product.a), b = input(product.b);
  const auto run = [&](const Tensor& base, const float* bias) {
    return products.run(a, product.a_transposed, b, product.b_transposed,
                        as_it_is(base ? base : result, batch), as_it_is(result, batch), product.factor,
                        static_cast<bool>(base), bias, static_cast<int32_t>(batch));
  };
  if (run(product.base, product.bias ? product.bias.as<float>() : nullptr)) return;
  write_base(product);
  run(result, nullptr);
}

bool find_card(std::string& name, std::string& message) {
  int count = 0;
  cudaError_t answer = cudaGetDeviceCount(&count);
  if (answer == cudaSuccess && count == 0) answer = cudaErrorNoDevice;
  if (answer != cudaSuccess) {
    message = fmt::format("there is no CUDA device: the driver answers error {} ({}): {}",
                          static_cast<int>(answer), cudaGetErrorName(answer), cudaGetErrorString(answer));
    return false;
  }
  cudaDeviceProp card = {};
  cuda::check(cudaGetDeviceProperties(&card, 0), "asking what it is");
  if (card.major < 9) {
    message = fmt::format("the card is a {} of compute capability {}.{}; 9.0 or newer is needed", card.name,
                          card.major, card.minor);
    return false;
  }
  if (!card.concurrentManagedAccess) {
    message = fmt::format(
        "the {}'s memory cannot be addressed by the program while it computes, as it must be", card.name);
    return false;
  }
  name = fmt::format("{}, {} GiB", card.name, card.totalGlobalMem >> 30);
  return true;
}

MemorySource& card_memory() {
  static ManagedMemory memory;
  return memory;
}

}  // namespace cuda
}  // namespace harmonic
