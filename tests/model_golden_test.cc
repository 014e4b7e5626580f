// The baselines against the Hugging Face library: with its weights, its logits. The golden files are written
// by python/make_golden_models.py.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "harmonic/model/weights.h"
#include "small_models.h"

namespace harmonic {
namespace {

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, LogitsEqualThoseOfTheHuggingFaceLibrary) {
  const SafetensorsFile file(std::filesystem::path(HARMONIC_SOURCE_DIR) / "tests/golden" /
                             (std::string(GetParam()) + ".safetensors"));
  const StoredTensor& stored = file.at("tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(stored.size));
  std::memcpy(tokens.data(), stored.bytes.data(), stored.bytes.size());
  const int64_t vocabulary = file.at("logits").shape.at(1), length = stored.size;

  auto settings = nlohmann::json::parse(file.metadata().at("settings"));
  settings["model_type"] = "harmonic";
  settings["vocab_size"] = vocabulary;
  settings["eot_token_id"] = 0;
  Model model(ModelConfig::from_json(settings.dump(), GetParam()), cpu_backend(), false);
  for (const NamedTensor& tensor : tensors_of(model.parameters()))
    file.read(tensor.name, tensor.shape, tensor.values.as<float>());
  // Everything in the file was used but the text and its logits.
  EXPECT_EQ(file.tensors().size(), model.parameters().size() + 2);

  std::vector<float> expected(static_cast<size_t>(length * vocabulary));
  file.read("logits", std::vector<int64_t>{length, vocabulary}, expected.data());
  ThreadPool pool(2);
  Inference inference(model, pool);
  State state(model.state_layout());
  const StateRows row(state, model.state_layout());
  const int64_t offsets[2] = {0, length};
  const Tensor logits = inference.logits(inference.hidden(tokens.data(), {offsets, 1}, row, row));
  double worst = 0, largest = 0;
  for (int64_t t = 0; t < length; ++t)
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double theirs = expected[static_cast<size_t>(t * vocabulary + v)];
      worst = std::max(worst, std::abs(number_at(logits, t, v) - theirs));
      largest = std::max(largest, std::abs(theirs));
    }
  EXPECT_LE(worst, 1e-4);
  EXPECT_GT(largest, 1);  // so that 1e-4 says something
}

INSTANTIATE_TEST_SUITE_P(Baselines, Golden, testing::Values("llama", "mamba"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace harmonic
