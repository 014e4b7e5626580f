// With which instructions the CPU backend multiplies in bf16.
#pragma once

#include <cstdint>
#include <string_view>

namespace harmonic {

// Each has bits of its own (matmul.h).
enum class Bf16Products : uint8_t {
  none,
  pairs,  // AVX-512 BF16: vectors of pairs of k
  tiles,  // AMX: tiles of 16 rows, 32 k and 16 columns
};

// The best that this processor has and the system allows; with AMX the latter is asked once a process.
Bf16Products bf16_products();
inline bool multiplies_in_bf16() { return bf16_products() != Bf16Products::none; }

// "AVX-512 BF16" or "AMX"; "none".
std::string_view name_of(Bf16Products products);

// While it lives, products use what is named, which the processor must have: for tests and benchmarks that
// compare the two. Not while another thread runs kernels.
class UseBf16Products {
 public:
  explicit UseBf16Products(Bf16Products products);
  ~UseBf16Products();
  UseBf16Products(const UseBf16Products&) = delete;
  UseBf16Products& operator=(const UseBf16Products&) = delete;
};

}  // namespace harmonic
