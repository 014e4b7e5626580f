// Small model folders on disk, for the tests of commands and runtime.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/base/files.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/tokenizer/bpe_trainer.h"
#include "tests/small_models.h"

namespace harmonic {

// A folder that is gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "harmonic-test-XXXXXX";
    if (!::mkdtemp(pattern.data())) fail("{}: cannot create", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(std::string_view name) const { return path_ / name; }
  std::string file(std::string_view name, std::string_view content) const {
    write_file(path_ / name, content);
    return path_ / name;
  }
  // Every file under it, and its content.
  std::vector<std::pair<std::string, std::string>> snapshot() const {
    std::vector<std::pair<std::string, std::string>> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_))
      if (entry.is_regular_file()) files.emplace_back(entry.path(), read_file(entry.path()));
    std::sort(files.begin(), files.end());
    return files;
  }

 private:
  std::filesystem::path path_;
};

// All three rates, a convolution and a predictor, as small as they come.
inline ModelConfig tiny_config(const Tokenizer& tokenizer) {
  ModelConfig config;
  take_vocabulary(config, tokenizer);
  config.d_model = 8;
  config.harmonic.d_state = 6;
  config.harmonic.strides = {1, 4, 16};
  config.harmonic.taus = {2, 4, 8};
  return config;
}

// A vocabulary whose tokens reach over spaces and line breaks, as those of real ones do.
inline std::unique_ptr<Tokenizer> small_bpe() {
  ThreadPool pool(1);
  BpeTrainer trainer(pool);
  std::string text;
  for (int i = 0; i < 50; ++i)
    text +=
        "if (the count is more) {\n    return the count;\n  }\n\n\n  other: the \xc3\xa9t\xc3\xa9 of the "
        "1990s\n";
  trainer.add(text);
  return trainer.train(320);
}

// Writes a model folder whose weights are random, and gives its path back.
inline std::string make_model_folder(const std::string& path, const Tokenizer& tokenizer, uint64_t seed = 1,
                                     const std::function<void(ModelConfig&)>& change = {}) {
  ModelConfig config = tiny_config(tokenizer);
  if (change) change(config);
  Model model(config, cpu_backend(), false);
  initialise_for_test(model, seed);
  save_model_folder(path, model, tokenizer);
  return path;
}

}  // namespace harmonic
