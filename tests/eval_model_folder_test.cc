// Model folders: what was saved comes back, and parts that do not belong together are refused.
#include "harmonic/eval/model_folder.h"

#include <gtest/gtest.h>

#include "small_models.h"
#include "train_fixture.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

class ModelFolder : public DataTest {
 protected:
  void SetUp() override {
    DataTest::SetUp();
    config_ = small_configs().front().config;
    config_.vocab_size = 256;
    model_ = std::make_unique<Model>(config_, cpu_backend(), false);
    initialise_for_test(*model_, 1);
    tokenizer_ = make_byte_tokenizer();
  }
  fs::path model() const { return folder_ / "model"; }
  std::string error() const {
    const std::string message = error_of([&] { load_model_folder(model(), cpu_backend()); });
    EXPECT_NE(message.find(model().string()), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }

  ModelConfig config_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(ModelFolder, SurvivesSavingAndLoading) {
  save_model_folder(model(), *model_, *tokenizer_);
  for (const bool trained : {false, true}) {
    const LoadedModel loaded = load_model_folder(model(), cpu_backend(), trained);
    EXPECT_EQ(loaded.model->parameters().hash(), model_->parameters().hash());
    EXPECT_EQ(loaded.model->parameters().trained(), trained);
    EXPECT_EQ(loaded.model->config().to_json(), model_->config().to_json());
    EXPECT_EQ(loaded.tokenizer->hash(), tokenizer_->hash());
  }
  EXPECT_TRUE(fs::exists(model() / "generation_config.json"));
}

TEST_F(ModelFolder, IsReplacedFileByFileWhereItIsThere) {
  save_model_folder(model(), *model_, *tokenizer_);
  file("model/notes.txt", "mine");
  initialise_for_test(*model_, 2);
  save_model_folder(model(), *model_, *tokenizer_);
  EXPECT_EQ(load_model_folder(model(), cpu_backend()).model->parameters().hash(),
            model_->parameters().hash());
  EXPECT_EQ(read_file(model() / "notes.txt"), "mine");
}

TEST_F(ModelFolder, OfATokenizerWithAnotherVocabularyIsRefused) {
  EXPECT_NE(error_of([&] { save_model_folder(model(), *model_, TinyTokenizer()); }).find("257 tokens"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(model()));
  for (const auto& entry : fs::directory_iterator(folder_)) ADD_FAILURE() << entry.path() << " was left";
}

TEST_F(ModelFolder, OfAnotherTokenizerThanTheWeightsWereTrainedWithIsRefused) {
  save_model_folder(model(), *model_, *tokenizer_);
  save_weights(model() / "model.safetensors", model_->parameters(),
               {{"tokenizer_sha256", std::string(64, 'a')}});
  EXPECT_NE(error().find("another tokenizer"), std::string::npos) << error();
}

TEST_F(ModelFolder, WithoutAFileNamesIt) {
  save_model_folder(model(), *model_, *tokenizer_);
  for (const char* name : {"tokenizer.json", "model.safetensors", "config.json"}) {
    fs::remove(model() / name);
    EXPECT_NE(error().find(name), std::string::npos) << error();
  }
  fs::remove_all(model());
  EXPECT_NE(error().find("no such folder"), std::string::npos);
  write_file(model(), "");
  EXPECT_NE(error().find("is a file"), std::string::npos);
}

TEST_F(ModelFolder, WithDamagedFilesIsRefused) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    for (const size_t left : {0, 1, 100}) {
      fs::remove_all(model());
      save_model_folder(model(), *model_, *tokenizer_);
      write_file(model() / name, read_file(model() / name).substr(0, left));
      EXPECT_NE(error().find(name), std::string::npos) << error();
    }
  }
}

TEST_F(ModelFolder, WithWeightsOfAnotherShapeIsRefused) {
  save_model_folder(model(), *model_, *tokenizer_);
  config_.d_model = 16;
  write_file(model() / "config.json", Model(config_, cpu_backend(), false).config().to_json());
  EXPECT_NE(error().find("expected shape [256, 16], found [256, 12]"), std::string::npos) << error();
}

}  // namespace
}  // namespace harmonic
