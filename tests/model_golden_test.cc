// The baselines against the Hugging Face library: with its weights, its logits. The golden files are written
// by python/make_golden_models.py.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "golden_model.h"
#include "harmonic/model/weights.h"
#include "small_models.h"

namespace harmonic {
namespace {

class Golden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, LogitsEqualThoseOfTheHuggingFaceLibrary) {
  const SafetensorsFile file(std::filesystem::path(HARMONIC_SOURCE_DIR) / "tests/golden" /
                             (std::string(GetParam()) + ".safetensors"));
  const std::vector<int32_t> tokens = golden_tokens(file);
  const int64_t vocabulary = file.at("logits").shape.at(1);

  auto settings = nlohmann::json::parse(file.metadata().at("settings"));
  settings["model_type"] = "harmonic";
  settings["vocab_size"] = vocabulary;
  settings["eot_token_id"] = 0;
  Model model(ModelConfig::from_json(settings.dump(), GetParam()), cpu_backend(), false);
  for (const NamedTensor& tensor : tensors_of(model.parameters()))
    file.read(tensor.name, tensor.shape, tensor.values.as<float>());
  // Everything in the file was used but the text and its logits.
  EXPECT_EQ(file.tensors().size(), model.parameters().size() + 2);

  expect_golden_logits(model, tokens, file, "logits");
}

INSTANTIATE_TEST_SUITE_P(Baselines, Golden, testing::Values("llama", "mamba"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace harmonic
