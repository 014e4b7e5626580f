// The models that benchmarks run, and the checks that come before their figures.
#pragma once

#include <string>
#include <vector>

#include "harmonic/data/batch.h"
#include "harmonic/model/inference.h"

namespace harmonic {

// The paper's form of a mixer ("harmonic", "attention", "mamba": the presets paper, paper-transformer and
// paper-mamba) at another width and vocabulary. `longest`: tokens of a text that attention is to remember.
// `layers`: 0 for the preset's. Throws Error (usage) for another name, and for sizes that no such model has.
ModelConfig bench_config(const std::string& mixer, int64_t d_model, int64_t vocabulary, int64_t longest,
                         int64_t layers = 0);

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary, uint64_t seed);

// `sequences` texts of `length` tokens, each predicting the next one.
Batch random_batch(int64_t sequences, int64_t length, int64_t vocabulary);

// Bytes of a model's matrices and head as they are kept, packed or not.
double matrix_bytes(const Model& model);
// Of those, what a token reads on average: the matrices of a slow level count for its stride.
double weight_bytes_a_token(const Model& model);
// What rounding explains, relative, of a whole tensor: of products of f32 numbers, or of some rounded to
// bf16.
inline constexpr double kCheckTolerance = 1e-4;
double check_tolerance(std::string_view precision);

// Throws Error: a check before measuring failed, in words `what`.
[[noreturn]] void refuse_to_measure(const std::string& what);

// Each compares this build on this machine with its definition, on a short text that the model then has the
// memory for, and returns in words what was compared. Throws Error where they differ: then no figure may be
// shown.
//
// Losses and every gradient of a training pass, with those of the reference backend:
std::string check_training(const ModelConfig& config, ThreadPool& pool,
                           const Backend& backend = cpu_backend(), double tolerance = kCheckTolerance);
// Logits with matrices kept as `format`: with those of the reference backend's, and to the bit (on a card
// within the tolerance) whether streams are decoded together or alone.
std::string check_decoding(const ModelConfig& config, ThreadPool& pool, DType format,
                           const Backend& backend = cpu_backend(), double tolerance = kCheckTolerance);
// States and losses of a text in pieces and as a whole, to the bit; gradients in chunks and as a whole.
std::string check_length(const ModelConfig& config, ThreadPool& pool, const Backend& backend = cpu_backend());

}  // namespace harmonic
