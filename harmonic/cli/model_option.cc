#include "harmonic/cli/model_option.h"

#include <filesystem>

#include "harmonic/base/files.h"
#include "harmonic/convert/gguf.h"
#include "harmonic/convert/gguf_file.h"
#include "harmonic/model/weight_format.h"

namespace harmonic {
namespace {

constexpr const char* kStored = "stored";

bool is_gguf(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored) && GgufFile::is_one(MappedFile(path).bytes());
}

LoadedModel load_path(const std::string& path, const Backend& backend, bool keep_blocks,
                      const std::function<void(ModelConfig&)>& change) {
  if (!is_gguf(path)) return load_model_folder(path, backend, false, change);
  GgufOptions options;
  options.keep_blocks = keep_blocks && backend.device == Device::cpu;  // a card has f32 in their place
  options.change = change;
  return std::move(read_gguf(path, options, backend).loaded);
}

}  // namespace

void ModelOption::declare(Options& options) {
  options.add("--model", &path_, "model folder, or a GGUF file of the Llama family")
      .placeholder("PATH")
      .required();
  std::vector<std::string> formats = {kStored};
  formats.insert(formats.end(), kWeightFormats.begin(), kWeightFormats.end());
  options
      .add("--weights", &weights_,
           "how matrices are kept: stored, as in the file: f32, or a GGUF file's blocks of Q8_0 and Q4_1; "
           "f32, "
           "with the same results; bf16 or int8 (a scale for each row), rounded when loaded: less memory is "
           "read for a token, at a small loss that harmonic eval measures")
      .one_of(formats);
}

std::string ModelOption::weights() const { return weights_ == kStored && !is_gguf(path_) ? "f32" : weights_; }

bool ModelOption::rounds() const { return weights_ != kStored && weight_format_of(weights_) != DType::f32; }

LoadedModel ModelOption::load(const Backend& backend, const std::function<void(ModelConfig&)>& change) const {
  return load_path(path_, backend, weights_ == kStored, change);
}

void ModelOption::pack(Model& model, Context& context) const {
  model.pack(context, weights_ == kStored ? DType::f32 : weight_format_of(weights_));
}

LoadedModel load_model_to_run(const std::string& path, const Backend& backend, bool keep_blocks) {
  return load_path(path, backend, keep_blocks, {});
}

}  // namespace harmonic
