// tensor: numbers in memory. Tensor is a typed view of a matrix and owns nothing; Arena owns.
//
// Everything this program computes with is a matrix of rows (tokens, or blocks of tokens) by columns
// (channels), or a vector, which is a matrix of one row. A batch of sequences is one matrix: the sequences'
// rows one after the other, told apart by Segments. Sizes are 64-bit.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "harmonic/base/error.h"

namespace harmonic {

enum class DType : uint8_t {
  f64,
  f32,
  bf16,
  f16,
  i8,
  i32,
  q8_0,  // blocks of 32 numbers, of packed matrices alone (ops/matmul.h); an element is a byte of them
  q4_1,
};
constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::i8:
    case DType::q8_0:
    case DType::q4_1:
      return 1;
  }
  return 0;
}
std::string_view name_of(DType dtype);

enum class Device : uint8_t { cpu, cuda };

template <typename T>
struct dtype_of;
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<int8_t> {
  static constexpr DType value = DType::i8;
};

// A view: element (r, c) lies at data + (r * stride + c) elements; columns are adjacent. Null when data is
// null. Copying it copies the view. Constness of the elements is a matter of the op's contract.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  DType dtype = DType::f32;
  Device device = Device::cpu;

  explicit operator bool() const { return data != nullptr; }
  int64_t size() const { return rows * cols; }
  bool contiguous() const { return stride == cols || rows <= 1; }

  // The elements, which must be of type T.
  template <typename T>
  T* as() const {
    HARMONIC_ASSERT(dtype == dtype_of<T>::value);
    return static_cast<T*>(data);
  }
  template <typename T>
  T* row(int64_t r) const {
    return as<T>() + r * stride;
  }

  Tensor columns(int64_t begin, int64_t count) const {
    HARMONIC_ASSERT(begin >= 0 && begin + count <= cols);
    return {static_cast<char*>(data) + begin * size_of(dtype), rows, count, stride, dtype, device};
  }
  Tensor rows_of(int64_t begin, int64_t count) const {
    HARMONIC_ASSERT(begin >= 0 && begin + count <= rows);
    return {static_cast<char*>(data) + begin * stride * size_of(dtype), count, cols, stride, dtype, device};
  }
};

inline bool same_shape(const Tensor& a, const Tensor& b) { return a.rows == b.rows && a.cols == b.cols; }

// The sequences of a batch: sequence b owns rows [offsets[b], offsets[b+1]) of a matrix of rows. A document
// boundary inside a text is simply the start of another segment, with a zero state: ops need no other kind of
// reset.
struct Segments {
  const int64_t* offsets = nullptr;  // count + 1 values, the first 0, never falling; owned by the caller
  int64_t count = 0;
  int64_t rows() const { return count ? offsets[count] : 0; }
  int64_t begin(int64_t b) const { return offsets[b]; }
  int64_t length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  int64_t longest() const {
    int64_t most = 0;
    for (int64_t b = 0; b < count; ++b) most = std::max(most, length(b));
    return most;
  }
};

}  // namespace harmonic
