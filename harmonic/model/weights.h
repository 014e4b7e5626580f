// Tensors by name, to and from safetensors files: a model's weights, and an optimiser's numbers beside them.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "harmonic/model/parameters.h"
#include "harmonic/model/safetensors.h"

namespace harmonic {

// A tensor that a file is to hold or to fill. A view: the memory is the caller's.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;  // as in the file; values is its contiguous matrix view
  Tensor values;               // f64 or f32
};

// Writes the tensors in their order and their own dtype (f32; f64 for models of the reference backend), so
// that reading them back gives the same bits. The file appears when it is complete. Throws Error.
void save_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                  const Metadata& metadata = {});

// Fills every tensor from the file, which must hold each of them in its shape and nothing else; f64, f32,
// bf16 and f16 are converted. Nothing is written into the tensors when the file does not fit. Returns the
// file's metadata. Throws Error naming the file, the tensor, what was expected and what was found.
Metadata load_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors);

// The values of all parameters, by their names.
std::vector<NamedTensor> tensors_of(const Parameters& parameters);
void save_weights(const std::filesystem::path& path, const Parameters& parameters,
                  const Metadata& metadata = {});
// As load_tensors; but matrices that are not trained, whose packed form is to be made of them, stay in the
// file, which is mapped until they are packed. Changing it on disk meanwhile is the caller's mistake;
// replacing it by another of its name is none.
Metadata load_weights(const std::filesystem::path& path, Parameters& parameters);

}  // namespace harmonic
