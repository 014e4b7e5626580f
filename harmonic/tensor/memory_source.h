// Where an Arena's tensors come from when plain memory will not do, because kernels of a device read them.
#pragma once

#include <cstdint>

namespace harmonic {

// What memory is for. Both kinds can be addressed by the program and by the device; what is written by one
// side may be read by the other once the device has been waited for.
enum class MemoryUse : uint8_t {
  tensors,  // activations, parameters: the device's, slow for the program to read
  shared,   // states, losses: small, and read or written by the program every step
};

class MemorySource {
 public:
  virtual ~MemorySource() = default;
  // At least 64-byte aligned, uninitialised. Throws Error when there is no more.
  virtual void* allocate(int64_t bytes, MemoryUse use) = 0;
  virtual void release(void* memory, MemoryUse use) noexcept = 0;
};

}  // namespace harmonic
