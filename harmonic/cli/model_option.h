// --model and --weights, of the commands that run a model: a model folder, or a GGUF file as it is.
#pragma once

#include <functional>
#include <string>

#include "harmonic/cli/options.h"
#include "harmonic/eval/model_folder.h"

namespace harmonic {

class ModelOption {
 public:
  void declare(Options& options);
  const std::string& path() const { return path_; }
  // How the matrices are kept, in a word.
  std::string weights() const;
  // Whether matrices are rounded when loaded.
  bool rounds() const;

  // `change` as in load_model_folder(). The backend must outlive the model.
  LoadedModel load(const Backend& backend, const std::function<void(ModelConfig&)>& change = {}) const;
  // Packs a loaded model as it is to be kept.
  void pack(Model& model, Context& context) const;

 private:
  std::string path_, weights_ = "stored";
};

// The same of a path: with the file's blocks, or all as f32.
LoadedModel load_model_to_run(const std::string& path, const Backend& backend, bool keep_blocks = true);

}  // namespace harmonic
