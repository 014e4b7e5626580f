// The names of the formats that a model's matrices are kept in while it runs.
#pragma once

#include <string>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/tensor/tensor.h"

namespace harmonic {

inline const std::vector<std::string> kWeightFormats = {"f32", "bf16", "int8"};

// For Model::pack. Throws Error (usage) for another name.
inline DType weight_format_of(const std::string& name) {
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "int8") return DType::i8;
  fail_usage("weights \"{}\": expected f32, bf16 or int8", name);
}

}  // namespace harmonic
