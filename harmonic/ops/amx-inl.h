// The per-target part of arithmetic on AMX's tile registers, in the one shape that is used: 16 x 16 sums, 16
// rows of 16 pairs of bf16 numbers, 16 pairs of rows. Highway has no target with these instructions, so they
// stand here by name and compile with AVX-512's; whether the processor at hand has them is for
// bf16_instructions.h to say.
//
// tdpbf16ps adds to each sum, with x_i y_i for its 16 pairs, upper and lower halves apart,
//   upper = 0; for i: upper = fma(x_i, y_i, upper);   lower likewise;   sum = sum + (lower + upper)
// each operation rounded to nearest, whatever the thread's mode, subnormals of operands and results as zero
// (Intel's instruction set reference; the tests of products find it so, to the bit).

#if defined(HARMONIC_OPS_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HARMONIC_OPS_AMX_INL_H_
#undef HARMONIC_OPS_AMX_INL_H_
#else
#define HARMONIC_OPS_AMX_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace harmonic {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_AVX3
constexpr int64_t kTile = 16;  // rows of a tile register, and 32-bit columns
constexpr int64_t kTileFloats = kTile * kTile;

// The registers: 0 to 3 sums, [row][column]; 4 and 5 rows of A; 6 and 7 panels of B.
struct AmxShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
HWY_INLINE void BeginAmx() {
  alignas(64) static constexpr AmxShapes kShapes;
  static_assert(sizeof kShapes == 64);
  asm volatile("ldtilecfg %0" : : "m"(kShapes));
}
// Gives the registers back, so that switching threads saves nothing of them.
HWY_INLINE void EndAmx() { asm volatile("tilerelease"); }

template <int kRegister>
HWY_INLINE void LoadTile(const float* from, int64_t row_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(row_bytes), "i"(kRegister) : "memory");
}
template <int kRegister>
HWY_INLINE void StoreTile(float* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(row_bytes), "i"(kRegister) : "memory");
}
template <int kSum, int kA, int kB>
HWY_INLINE void MultiplyAddTiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace harmonic
HWY_AFTER_NAMESPACE();

#endif
