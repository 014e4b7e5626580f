// Attention replaced by layers of constant state.
#include "harmonic/convert/surgery.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/eval/certificate.h"
#include "tests/cli_program.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

ModelConfig attention_config() {
  ModelConfig config;
  config.vocab_size = 40;
  config.mixer = {"attention"};
  config.d_model = 24;
  config.n_layers = 3;
  config.ffn_multiple = 2;
  config.attention = {.n_heads = 4, .n_kv_heads = 2, .context = 64};
  return config;
}

std::unique_ptr<Model> attention_model() {
  auto model = std::make_unique<Model>(attention_config(), cpu_backend(), false);
  initialise_for_test(*model, 3);
  return model;
}

bool same_numbers(const Tensor& a, const Tensor& b) {
  return same_shape(a, b) && std::memcmp(a.data, b.data, static_cast<size_t>(a.size()) * sizeof(float)) == 0;
}

// Everything outside the mixers, and in the matrix form the projections too.
void expect_all_else_kept(const Model& source, Model& made, bool projections) {
  for (size_t i = 0; i < source.parameters().size(); ++i) {
    const Parameter& from = source.parameters()[i];
    const bool in_mixer = from.name.find(".mixer.") != std::string::npos;
    const Parameter* to = made.parameters().find(from.name);
    if (in_mixer && !projections) continue;
    ASSERT_NE(to, nullptr) << from.name;
    EXPECT_TRUE(same_numbers(from.value, to->value)) << from.name;
  }
}

TEST(Surgery, KeepsEverythingButTheMixersBitForBit) {
  const auto source = attention_model();
  for (const char* form : {"matrix", "paper"}) {
    SurgeryOptions options;
    options.form = form;
    const Surgery surgery = replace_attention(*source, options);
    EXPECT_EQ(surgery.replaced, (std::vector<int64_t>{0, 1, 2}));
    expect_all_else_kept(*source, *surgery.model, options.form == "matrix");
    EXPECT_EQ(surgery.kept + surgery.fresh, surgery.model->parameters().count()) << form;
    EXPECT_EQ(surgery.kept + surgery.dropped, source->parameters().count()) << form;
    EXPECT_FALSE(surgery.model->state_layout().has_caches()) << form;
  }
}

TEST(Surgery, TheMatrixFormHasNoMoreNewParametersThanAttentionHas) {
  const auto source = attention_model();
  const Surgery surgery = replace_attention(*source, {});
  int64_t attention = 0;
  for (size_t i = 0; i < source->parameters().size(); ++i)
    if (source->parameters()[i].name.find(".mixer.") != std::string::npos)
      attention += source->parameters()[i].value.size();
  EXPECT_GT(surgery.fresh, 0);
  EXPECT_LE(surgery.fresh, attention);
  EXPECT_EQ(surgery.dropped, 0);
}

TEST(Surgery, FromScratchLeavesTheProjectionsOfReplacedLayersOnly) {
  const auto source = attention_model();
  SurgeryOptions options;
  options.layers = {1};
  options.from_scratch = true;
  const Surgery surgery = replace_attention(*source, options);
  const auto same = [&](const char* name) {
    return same_numbers(source->parameters().find(name)->value,
                        surgery.model->parameters().find(name)->value);
  };
  EXPECT_TRUE(same("layers.0.mixer.q_proj.weight"));
  EXPECT_FALSE(same("layers.1.mixer.q_proj.weight"));
  EXPECT_TRUE(same("layers.1.ffn.up.weight"));
}

TEST(Surgery, AHybridKeepsLayersOfAttentionWithAWindow) {
  const auto source = attention_model();
  SurgeryOptions options;
  options.layers = {0, 2};
  options.window = 16;
  const Surgery surgery = replace_attention(*source, options);
  EXPECT_EQ(surgery.model->config().mixer, (std::vector<std::string>{"matrix", "attention", "matrix"}));
  EXPECT_EQ(surgery.model->config().longest_text(), 0) << "it takes texts of any length";
  ThreadPool pool(2);
  EXPECT_TRUE(certify_for_measurement(*surgery.model, pool).passed());
}

TEST(Surgery, EveryFormPassesTheCertificate) {
  const auto source = attention_model();
  ThreadPool pool(2);
  for (const char* form : {"matrix", "paper"}) {
    SurgeryOptions options;
    options.form = form;
    const Surgery surgery = replace_attention(*source, options);
    const Certificate certificate = certify_for_measurement(*surgery.model, pool);
    for (const CertificateTest& test : certificate.tests)
      EXPECT_TRUE(test.passed) << form << ": " << test.name << ": " << test.detail;
  }
}

// With gates that are open and the fast level alone, a text of one token is attention's to the same result:
// there is one value to average over, whatever its weight.
TEST(Surgery, TheMatrixFormGivesAttentionsOutputForASingleToken) {
  const auto source = attention_model();
  const Surgery surgery = replace_attention(*source, {});
  ThreadPool pool(1);
  Inference before(*source, pool), after(*surgery.model, pool);
  const int32_t token = 7;
  State a(source->state_layout()), b(surgery.model->state_layout());
  const Tensor expected = before.advance(a, &token, 1), found = after.advance(b, &token, 1);
  for (int64_t i = 0; i < expected.cols; ++i)
    EXPECT_NEAR(number_at(found, 0, i), number_at(expected, 0, i), 1e-3) << i;
}

// An evaluation stretches the positions of the attention that stays, and no cell's.
TEST(Surgery, CellsTurnAsTheyDidWhereAttentionIsStretched) {
  const auto source = attention_model();
  const Surgery surgery = replace_attention(*source, {});
  ThreadPool pool(1);
  const std::vector<int32_t> text = random_text(20, 40, 1);
  const auto logit_after = [&](const ModelConfig& config) {
    Model model(config, cpu_backend(), false);
    for (size_t i = 0; i < model.parameters().size(); ++i) {
      const Tensor &from = surgery.model->parameters()[i].value, &to = model.parameters()[i].value;
      std::memcpy(to.data, from.data, static_cast<size_t>(from.size()) * sizeof(float));
    }
    Inference inference(model, pool);
    State state(model.state_layout());
    return number_at(inference.advance(state, text.data(), 20), 0, 0);
  };
  ModelConfig config = surgery.model->config();
  const double expected = logit_after(config);
  config.matrix.rotation = config.attention;
  config.attention.rope = {.kind = "linear", .factor = 4, .context = 64};
  EXPECT_EQ(logit_after(config), expected);
  config.matrix.rotation.reset();
  EXPECT_NE(logit_after(config), expected);
}

// Cells turn by the waves that came round in training, however far the positions are stretched when they are
// read.
TEST(Surgery, CellsKeepTheWavesOfTheContextInTraining) {
  ModelConfig config = attention_config();
  EXPECT_EQ(replace_attention(Model(config, cpu_backend(), false), {}).model->config().matrix.rope_wavelength,
            32);
  config.attention.rope = {.kind = "dynamic", .factor = 8, .context = 64};
  config.attention.context = 512;
  EXPECT_EQ(replace_attention(Model(config, cpu_backend(), false), {}).model->config().matrix.rope_wavelength,
            32);
}

TEST(Surgery, WhatCannotBeReplacedIsRefused) {
  const auto source = attention_model();
  const auto refusal = [&](const Model& model, SurgeryOptions options) -> std::string {
    try {
      replace_attention(model, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  SurgeryOptions options;
  options.layers = {3};
  EXPECT_NE(refusal(*source, options).find("no layer 3; the model has layers 0 to 2"), std::string::npos);
  options.layers = {1, 1};
  EXPECT_NE(refusal(*source, options).find("layer 1 has no attention, or is named twice"), std::string::npos);
  options = {};
  options.window = 8;
  EXPECT_NE(refusal(*source, options).find("no attention stays"), std::string::npos);
  options.layers = {0};
  options.window = 65;
  EXPECT_NE(refusal(*source, options).find("attention was made for 64 tokens"), std::string::npos);
  ModelConfig narrow = attention_config();
  narrow.attention.window = 8;
  options.window = 16;
  EXPECT_NE(refusal(Model(narrow, cpu_backend(), false), options).find("looks back 8 tokens"),
            std::string::npos);
  const Surgery surgery = replace_attention(*source, {});
  EXPECT_NE(refusal(*surgery.model, {}).find("constant state already"), std::string::npos);
}

TEST(ConvertReplace, WritesAStudentAndSaysWhatItKept) {
  const TemporaryFolder folder;
  const std::string student = folder / "student";
  const Outcome made = run_harmonic({"convert", "--from", HARMONIC_SOURCE_DIR "/tests/golden/llama_folder",
                                     "--out", student, "--replace", "all"});
  ASSERT_EQ(made.status, 0) << made.err;
  EXPECT_NE(made.out.find("kept bit for bit"), std::string::npos) << made.out;
  EXPECT_NE(made.out.find("bytes; before, keys and values of"), std::string::npos) << made.out;
  const Outcome checked = run_harmonic({"check", "--model", student, "--random-tokens", "2048"});
  EXPECT_EQ(checked.status, 0) << checked.out << checked.err;
  const Outcome again = run_harmonic({"convert", "--from", student, "--out", folder / "again"});
  EXPECT_EQ(again.status, 2);
  EXPECT_NE(again.err.find("is a model folder already; --replace changes it"), std::string::npos)
      << again.err;
}

TEST(ConvertReplace, WhatIsRefusedLeavesNoReportAndNoFolder) {
  const TemporaryFolder folder;
  const auto refused = [&](const std::string& from, const std::string& layers, int status) {
    const Outcome outcome =
        run_harmonic({"convert", "--from", from, "--out", folder / "student", "--replace", layers});
    EXPECT_EQ(outcome.status, status) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_FALSE(std::filesystem::exists(folder / "student"));
    return outcome.err;
  };
  refused(HARMONIC_SOURCE_DIR "/tests/golden/llama_folder", "0,0", 2);
  for (const char* none : {" ", ",", "0,,1"})
    refused(HARMONIC_SOURCE_DIR "/tests/golden/llama_folder", none, 2);
  const auto attention = [](ModelConfig& config) {
    config.mixer = {"attention"};
    config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
  };
  const std::string model = make_model_folder(folder / "model", *make_byte_tokenizer(), 1, attention);
  refused(model, "0,0", 2);
  LoadedModel loaded = load_model_folder(model, cpu_backend());
  loaded.model->parameters().find("layers.0.mixer.v_proj.weight")->value.as<float>()[5] = std::nanf("");
  save_model_folder(model, *loaded.model, *loaded.tokenizer);
  const std::string error = refused(model, "all", 1);
  EXPECT_NE(error.find("a number of layers.0.mixer.v_proj.weight is not finite"), std::string::npos) << error;
}

TEST(ConvertReplace, FlagsOfTheSurgeryNeedIt) {
  const TemporaryFolder folder;
  const Outcome outcome = run_harmonic({"convert", "--from", HARMONIC_SOURCE_DIR "/tests/golden/llama_folder",
                                        "--out", folder / "m", "--form", "paper"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("belong to --replace"), std::string::npos) << outcome.err;
}

TEST(ConvertReplace, FlagsWithoutMeaningAreRefused) {
  const TemporaryFolder folder;
  const std::string model =
      make_model_folder(folder / "model", *make_byte_tokenizer(), 1, [](ModelConfig& config) {
        config.mixer = {"attention"};
        config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
      });
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--tokenizer", "elsewhere"},
                                             {"--form", "paper", "--features", "8"},
                                             {"--form", "paper", "--from-scratch"}}) {
    std::vector<std::string> words = {"convert", "--from", model, "--out", folder / "m", "--replace", "all"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_harmonic(words);
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_FALSE(is_there(folder / "m"));
  }
}

TEST(ConvertReplace, WhatFailsLeavesAnEmptyFolderEmpty) {
  const TemporaryFolder folder;
  const std::string model =
      make_model_folder(folder / "model", *make_byte_tokenizer(), 1, [](ModelConfig& config) {
        config.mixer = {"attention"};
        config.attention = {.n_heads = 2, .n_kv_heads = 1, .context = 64};
      });
  std::filesystem::create_directory(folder / "out");
  const std::vector<std::string> words = {"convert",      "--from",    model, "--out",
                                          folder / "out", "--replace", "all"};
  struct rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit limit = {std::filesystem::file_size(model + "/model.safetensors") / 2, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_EQ(run_harmonic(words).status, 1);
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_TRUE(std::filesystem::is_empty(folder / "out"));
  EXPECT_EQ(run_harmonic(words).status, 0);
  EXPECT_TRUE(is_there(std::string(folder / "out") + "/model.safetensors"));
}

}  // namespace
}  // namespace harmonic
