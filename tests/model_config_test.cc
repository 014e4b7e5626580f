#include "harmonic/model/config.h"

#include <gtest/gtest.h>

#include "harmonic/base/error.h"
#include "harmonic/model/presets.h"

namespace harmonic {
namespace {

std::string error_of(const auto& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}
std::string verdict(const ModelConfig& config) {
  return error_of([&] { config.validate(); });
}

TEST(ModelConfig, DefaultsAndThePaperAreValid) {
  EXPECT_EQ(verdict(ModelConfig()), "no error");
  EXPECT_EQ(verdict(preset_named("paper").config), "no error");
}

TEST(ModelConfig, StridesMustBeginWithOneAndDivide) {
  ModelConfig c;
  c.harmonic.strides = {1, 4, 10};
  EXPECT_EQ(verdict(c),
            "model.harmonic.strides = [1, 4, 10]: each must divide the next one, which is larger; 4 does not "
            "divide 10");
  for (const std::vector<int64_t>& strides :
       {std::vector<int64_t>{}, {2, 4, 8}, {1, 4, 4}, {1, 4, 2}, {1, 0, 4}, {1, -4, 16}, {1, 4}}) {
    c.harmonic.strides = strides;
    EXPECT_NE(verdict(c), "no error") << strides.size();
  }
}

TEST(ModelConfig, CellCountsMustFitTheLayout) {
  ModelConfig c;
  c.harmonic.cells = {1, 1};
  EXPECT_NE(verdict(c), "no error");
  c.harmonic.cells = {1, 0, 1};
  EXPECT_NE(verdict(c), "no error");
  c.harmonic.layout = "sandwich";
  c.harmonic.cells = {1, 1, 1};
  EXPECT_NE(verdict(c).find("expects 4 entries"), std::string::npos) << verdict(c);
  c.harmonic.cells = {2, 1, 1, 2};
  EXPECT_EQ(verdict(c), "no error");
  c.harmonic.cells = {0, 1, 1, 0};
  EXPECT_NE(verdict(c), "no error");
  c.harmonic.layout = "flat";
  c.harmonic.cells = {5};
  EXPECT_EQ(verdict(c), "no error");
  c.harmonic.cells = {0};
  EXPECT_NE(verdict(c), "no error");
  c.harmonic.cells = {1, 1, 1};
  EXPECT_EQ(verdict(c), "no error");
  c.harmonic.taus = {4};
  EXPECT_NE(verdict(c), "no error");
}

TEST(ModelConfig, FlatCellsFollowTheLevelsTheyComeFrom) {
  HarmonicConfig c;
  c.layout = "flat";
  c.cells = {2, 1, 3};
  ASSERT_EQ(c.flat_cells(), 6);
  std::vector<int64_t> levels;
  for (int64_t i = 0; i < 6; ++i) levels.push_back(c.flat_level(i));
  EXPECT_EQ(levels, (std::vector<int64_t>{0, 0, 1, 2, 2, 2}));
  c.cells = {4};
  levels.clear();
  for (int64_t i = 0; i < 4; ++i) levels.push_back(c.flat_level(i));
  EXPECT_EQ(levels, (std::vector<int64_t>{0, 0, 1, 2}));
}

TEST(ModelConfig, HeadsMustDivideTheWidthOnlyWhereThereIsAttention) {
  ModelConfig c;
  c.attention.n_heads = 3;
  EXPECT_EQ(verdict(c), "no error");
  c.mixer = {"attention"};
  EXPECT_EQ(verdict(c), "model.attention.n_heads = 3: does not divide d_model = 256");
  c.attention.n_heads = 4;
  c.attention.n_kv_heads = 3;
  EXPECT_NE(verdict(c), "no error");
}

TEST(ModelConfig, MixersAreKnownAndOneALayer) {
  ModelConfig c;
  c.mixer = {"lstm"};
  EXPECT_NE(verdict(c).find("harmonic, attention, mamba"), std::string::npos);
  c.mixer = {"harmonic", "mamba"};
  EXPECT_NE(verdict(c), "no error");
  c.n_layers = 2;
  EXPECT_EQ(verdict(c), "no error");
}

TEST(ModelConfig, TheMatrixMixerNeedsHeadsATauForEachLevelAndEvenFeatures) {
  ModelConfig c;
  c.mixer = {"matrix"};
  EXPECT_EQ(verdict(c), "no error");
  EXPECT_EQ(c.matrix_features(), 128) << "twice the width of a head";
  c.matrix.features = 7;
  EXPECT_NE(verdict(c).find("model.matrix.features = 7: expected an even number"), std::string::npos);
  c.matrix.features = 0;
  c.attention.n_heads = 3;
  EXPECT_NE(verdict(c).find("does not divide d_model"), std::string::npos);
  c = {};
  c.mixer = {"matrix"};
  c.harmonic.layout = "flat";
  c.harmonic.cells = {1};
  c.harmonic.taus = {5};
  EXPECT_NE(verdict(c).find("mixer \"matrix\" expects 3 entries"), std::string::npos) << verdict(c);
  // Cells are the other mixer's.
  c.harmonic.layout = "levels";
  c.harmonic.strides = {1};
  c.harmonic.cells = {1, 1, 1};
  EXPECT_EQ(verdict(c), "no error");
}

TEST(ModelConfig, TheEndOfTextIsATokenOfTheVocabulary) {
  ModelConfig c;
  c.eot_token_id = 256;
  EXPECT_NE(verdict(c), "no error");
  c.eot_token_id = 255;
  EXPECT_EQ(verdict(c), "no error");
  c.vocab_size = 0;
  EXPECT_NE(verdict(c), "no error");
}

TEST(ModelConfig, ConfigJsonReadsBackWhatWasWritten) {
  ModelConfig c = preset_named("paper").config;
  c.ffn_multiple = 8.0 / 3;
  c.mixer = {"harmonic", "attention"};
  c.n_layers = 2;
  c.harmonic.cell = {"selective"};
  const std::string text = c.to_json();
  const ModelConfig back = ModelConfig::from_json(text, "config.json");
  EXPECT_EQ(back.to_json(), text);
  EXPECT_EQ(back.vocab_size, 50257);
  EXPECT_EQ(back.ffn_multiple, c.ffn_multiple);
  EXPECT_EQ(back.mixer, c.mixer);
  for (const char* key :
       {"\"model_type\": \"harmonic\"", "HarmonicForCausalLM", "\"eot_token_id\"", "\"conv_width\": 0"})
    EXPECT_NE(text.find(key), std::string::npos) << key;
}

TEST(ModelConfig, TheTokenThatBeginsTextsIsWrittenWhereItIsAnother) {
  ModelConfig config;
  config.vocab_size = 300;
  config.eot_token_id = 2;
  EXPECT_EQ(config.bos(), 2);
  config.bos_token_id = 2;
  EXPECT_EQ(config.to_json().find("bos_token_id"), std::string::npos);
  config.bos_token_id = 1;
  EXPECT_EQ(ModelConfig::from_json(config.to_json(), "config.json").bos(), 1);
  config.bos_token_id = 300;
  EXPECT_THROW(config.validate(), Error);
}

TEST(ModelConfig, ConfigJsonOfAnotherKindIsRefusedWithTheFileAndTheCure) {
  const auto read = [](std::string_view text) {
    return error_of([&] { ModelConfig::from_json(text, "m/config.json"); });
  };
  const std::string base = R"("model_type": "harmonic", "vocab_size": 256, "eot_token_id": 0)";
  EXPECT_EQ(read("{" + base + "}"), "no error");
  EXPECT_EQ(read("{" + base + R"(, "transformers_version": "4.40", "torch_dtype": "float32"})"), "no error");
  EXPECT_EQ(read("{" + base + R"(, "d_modle": 3})"),
            "m/config.json: unknown key \"d_modle\"; did you mean \"d_model\"?");
  EXPECT_NE(read(R"({"model_type": "llama"})").find("harmonic convert"), std::string::npos);
  EXPECT_NE(read(R"({"model_type": "harmonic", "eot_token_id": 0})").find("\"vocab_size\" is missing"),
            std::string::npos);
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string("3"),
        "{" + base + R"(, "d_model": 1e300})", "{" + base + R"(, "d_model": 18446744073709551615})",
        "{" + base + R"(, "d_model": null})", "{" + base + R"(, "harmonic": [1]})",
        "{" + base + R"(, "harmonic": {"strides": [1, 3, 7]}})", std::string(100'000, '[')})
    EXPECT_TRUE(read(text).starts_with("m/config.json")) << read(text);
}

TEST(ModelConfig, TheFeedForwardWidthIsAMultipleOfEight) {
  ModelConfig c;
  EXPECT_EQ(c.d_ffn(), 0);
  c.d_model = 100;
  c.ffn_multiple = 8.0 / 3;
  EXPECT_EQ(c.d_ffn(), 272);
  c.ffn_multiple = 4;
  EXPECT_EQ(c.d_ffn(), 400);
}

TEST(ModelConfig, AnUnknownPresetNamesTheNearest) {
  EXPECT_NE(error_of([] { preset_named("papr"); }).find("did you mean \"paper\"?"), std::string::npos);
}

}  // namespace
}  // namespace harmonic
