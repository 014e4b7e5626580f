// With which instructions the CPU backend multiplies in bf16.
#pragma once

#include <cstdint>
#include <string_view>

namespace harmonic {

// Each has bits of its own (matmul.h).
enum class Bf16Instructions : uint8_t {
  none,
  pairs,  // AVX-512 BF16: vectors of pairs of k
  tiles,  // AMX: tiles of 16 rows, 32 k and 16 columns
};

// The best that this processor has and the system allows (with AMX it is asked), with the vectors that
// kernels run with.
Bf16Instructions bf16_instructions();
inline bool multiplies_in_bf16() { return bf16_instructions() != Bf16Instructions::none; }

// "AVX-512 BF16" or "AMX"; "none".
std::string_view name_of(Bf16Instructions instructions);

// While it lives, products use what is named, which the processor must have: for tests and benchmarks that
// compare the two. Not while another thread runs kernels.
class UseBf16Instructions {
 public:
  explicit UseBf16Instructions(Bf16Instructions instructions);
  ~UseBf16Instructions();
  UseBf16Instructions(const UseBf16Instructions&) = delete;
  UseBf16Instructions& operator=(const UseBf16Instructions&) = delete;
};

}  // namespace harmonic
