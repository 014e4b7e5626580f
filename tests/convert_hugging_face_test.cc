// Hugging Face folders: a golden one against the library, and those that are refused.
#include <gtest/gtest.h>

#include <fstream>

#include "harmonic/base/error.h"
#include "harmonic/base/json.h"
#include "harmonic/base/random.h"
#include "harmonic/convert/hugging_face.h"
#include "harmonic/model/weights.h"
#include "tests/golden_model.h"
#include "tests/model_folder_fixture.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(HARMONIC_SOURCE_DIR) / "tests/golden/llama_folder";

std::string complaint(const fs::path& folder) {
  try {
    read_hugging_face(folder, {}, cpu_backend());
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string config_complaint(const Json& config) {
  try {
    read_hugging_face_config(config.dump(), "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

Json golden_config() { return parse_json(read_file(kGolden / "config.json"), "config.json"); }

// A copy of the golden folder that a test may damage.
class HuggingFace : public testing::Test {
 protected:
  HuggingFace() {
    for (const auto& entry : fs::directory_iterator(kGolden))
      files_.emplace_back(folder_.file(entry.path().filename().string(), read_file(entry.path())));
    std::sort(files_.begin(), files_.end());
  }
  fs::path folder() const { return fs::path(folder_ / "."); }
  void set(const char* key, Json value) {
    Json config = parse_json(read_file(folder() / "config.json"), "config.json");
    config[key] = std::move(value);
    folder_.file("config.json", config.dump());
  }
  // The golden weights in one file, in a type of choice.
  void store_whole(StoredType type, bool tied = false) const {
    std::vector<SafetensorsWriter::Entry> entries;
    std::vector<std::string> contents;
    for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
      const SafetensorsFile file(folder() / name);
      for (const auto& [tensor, stored] : file.tensors()) {
        if (tied && tensor == "lm_head.weight") continue;
        std::vector<float> numbers(static_cast<size_t>(stored.size));
        file.read(tensor, stored.shape, numbers.data());
        std::string bytes;
        for (const float number : numbers) {
          if (type == StoredType::f32) {
            bytes.append(reinterpret_cast<const char*>(&number), 4);
          } else if (type == StoredType::f64) {
            const double wide = number;
            bytes.append(reinterpret_cast<const char*>(&wide), 8);
          } else {
            bytes.append(reinterpret_cast<const char*>(&number) + 2, 2);
          }
        }
        entries.push_back({tensor, type, stored.shape});
        contents.push_back(bytes);
      }
    }
    SafetensorsWriter writer(folder() / "model.safetensors", entries);
    for (const std::string& bytes : contents) writer.append(bytes.data(), static_cast<int64_t>(bytes.size()));
    writer.commit();
  }

  TemporaryFolder folder_;
  std::vector<fs::path> files_;
};

}  // namespace

TEST_F(HuggingFace, LogitsAndTokensEqualThoseOfTheLibrary) {
  const SafetensorsFile expected(kGolden.string() + ".safetensors");
  const PretrainedModel pretrained = read_hugging_face(kGolden, {}, cpu_backend());
  const std::vector<int32_t> tokens = golden_tokens(expected);
  std::vector<int32_t> own = {pretrained.loaded.tokenizer->bos()};
  pretrained.loaded.tokenizer->encode(expected.metadata().at("text"), own);
  EXPECT_EQ(own, tokens);
  expect_golden_logits(*pretrained.loaded.model, tokens, expected, "logits");
}

TEST_F(HuggingFace, EveryNumberIsKeptAndTheRestAreZeros) {
  const PretrainedModel pretrained = read_hugging_face(kGolden, {}, cpu_backend());
  int64_t numbers = 0;
  for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    const SafetensorsFile file(kGolden / name);
    for (const auto& [tensor, stored] : file.tensors()) numbers += stored.size;
  }
  EXPECT_EQ(pretrained.parameters, numbers);
  EXPECT_EQ(pretrained.shape.ffn_width, 44);
  Parameters& parameters = pretrained.loaded.model->parameters();
  const Tensor& down = parameters.find("layers.1.ffn.down.weight")->value;
  const Tensor& up = parameters.find("layers.1.ffn.up.weight")->value;
  ASSERT_EQ(down.cols, 48);
  for (int64_t i = 44; i < 48; ++i)
    for (int64_t c = 0; c < 24; ++c) {
      EXPECT_EQ(down.row<float>(c)[i], 0);
      EXPECT_EQ(up.row<float>(i)[c], 0);
    }
}

TEST_F(HuggingFace, WideAndNarrowTypesOfTheSameNumbersAreTheSameModel) {
  const std::string sharded = read_hugging_face(kGolden, {}, cpu_backend()).loaded.model->parameters().hash();
  for (const StoredType type : {StoredType::f32, StoredType::bf16}) {
    store_whole(type);
    EXPECT_EQ(read_hugging_face(folder(), {}, cpu_backend()).loaded.model->parameters().hash(), sharded);
  }
  // The bits of bf16 read as f16 are other numbers, but numbers.
  store_whole(StoredType::f16);
  const PretrainedModel half = read_hugging_face(folder(), {}, cpu_backend());
  const SafetensorsFile stored(folder() / "model.safetensors");
  std::vector<float> expected(24);
  stored.read("model.norm.weight", std::vector<int64_t>{24}, expected.data());
  EXPECT_EQ(0, std::memcmp(half.loaded.model->parameters().find("final_norm.weight")->value.data,
                           expected.data(), 24 * sizeof(float)));
  store_whole(StoredType::f64);
  EXPECT_NE(complaint(folder()).find("F64"), std::string::npos);
}

TEST_F(HuggingFace, OneMatrixForEmbeddingAndHeadIsOne) {
  set("tie_word_embeddings", true);
  store_whole(StoredType::f32, true);
  const PretrainedModel pretrained = read_hugging_face(folder(), {}, cpu_backend());
  EXPECT_TRUE(pretrained.loaded.model->config().tie_embeddings);
  store_whole(StoredType::f32);
  EXPECT_NE(complaint(folder()).find("tie_word_embeddings"), std::string::npos);
}

TEST_F(HuggingFace, WhatWouldComputeSomethingElseIsRefusedByItsKey) {
  ASSERT_EQ(config_complaint(golden_config()), "");
  const std::pair<const char*, Json> cases[] = {
      {"model_type", "gpt2"},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"head_dim", 8},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", "small"},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},  // beside rope_parameters
      {"rope_parameters", {{"rope_type", "longrope"}, {"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}},  // no factor
      {"rope_parameters", {{"rope_type", "yarn"}, {"factor", 0.5}}},
      {"rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}, {"truncate", false}}},
      {"rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}, {"mscale", 1.0}}},
      {"rope_parameters", {{"rope_type", "default"}, {"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 1.0}}},
      {"rope_theta", 7.0},  // beside that of rope_parameters
      {"rope_parameters", 3},
      {"rope_theta", -1},
      {"rope_interleaved", true},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"sliding_window", 64},
      {"quantization_config", {{"bits", 4}}},
      {"num_attention_heads", 5},
      {"num_attention_heads", 0},
      {"hidden_size", nullptr},
      {"hidden_size", "24"},
      {"hidden_size", 1e300},
      {"num_hidden_layers", 5000},
      {"vocab_size", -1},
      {"eos_token_id", {1, 2}},
      {"surprise", 1},
  };
  for (const auto& [key, value] : cases) {
    Json config = golden_config();
    config[key] = value;
    const std::string message = config_complaint(config);
    EXPECT_NE(message.find(key), std::string::npos) << key << " = " << value << ": " << message;
  }
}

TEST_F(HuggingFace, AMistralSaysItsWindowAndItsHeadsOrNull) {
  Json config = golden_config();
  config["model_type"] = "mistral";
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = nullptr;
  EXPECT_EQ(config_complaint(config), "");
  config.erase("sliding_window");
  EXPECT_NE(config_complaint(config).find("sliding_window is missing"), std::string::npos);
  config["sliding_window"] = 64;
  config.erase("num_key_value_heads");
  EXPECT_NE(config_complaint(config).find("num_key_value_heads is missing"), std::string::npos);
}

// The library's weights and text of model_golden_test.cc, under settings that are read from its
// configurations.
TEST_F(HuggingFace, ScaledPositionsWindowsAndNormsComputeWhatTheLibraryDoes) {
  const fs::path golden = kGolden.parent_path();
  const SafetensorsFile plain(golden / "llama.safetensors"), variants(golden / "llama_variants.safetensors");
  const std::vector<int32_t> tokens = golden_tokens(plain);
  int64_t count = 0;
  for (const auto& [name, unused] : variants.tensors()) {
    SCOPED_TRACE(name);
    const LlamaShape shape = read_hugging_face_config(variants.metadata().at(name), name).shape;
    Json settings = parse_json(plain.metadata().at("settings"), name);
    settings["model_type"] = "harmonic";
    settings["vocab_size"] = shape.vocab_size;
    settings["eot_token_id"] = 0;
    ModelConfig config = ModelConfig::from_json(settings.dump(), name);
    const std::string without = config.to_json();
    take_settings(config, shape);
    EXPECT_NE(config.to_json(), without);
    // What the settings mean survives a file.
    Model model(ModelConfig::from_json(config.to_json(), name), cpu_backend(), false);
    for (const NamedTensor& tensor : tensors_of(model.parameters()))
      plain.read(tensor.name, tensor.shape, tensor.values.as<float>());
    expect_golden_logits(model, tokens, variants, name);
    ++count;
  }
  EXPECT_EQ(count, 7);
}

TEST_F(HuggingFace, AKeyThatStandsTwiceIsRefused) {
  std::string text = golden_config().dump();
  text.insert(1, R"("rms_norm_eps": 0.5, )");
  try {
    read_hugging_face_config(text, "config.json");
    ADD_FAILURE() << "taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("leave each there once"), std::string::npos) << error.what();
  }
}

TEST_F(HuggingFace, TheOldFormOfScalingMeansTheSame) {
  Json config = golden_config();
  config.erase("rope_parameters");
  config["rope_theta"] = 500.0;
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"beta_fast", 16.0}};
  const LlamaShape shape = read_hugging_face_config(config.dump(), "old").shape;
  EXPECT_EQ(shape.rope_base, 500);
  EXPECT_EQ(shape.rope.kind, "yarn");
  EXPECT_EQ(shape.rope.factor, 4);
  EXPECT_EQ(shape.rope.context, 64) << "max_position_embeddings, where it is not said";
  EXPECT_EQ(shape.rope.turns, (std::vector<double>{16, 1}));
}

TEST_F(HuggingFace, PartsThatDoNotBelongTogetherAreRefused) {
  set("eos_token_id", 0);
  EXPECT_NE(complaint(folder()).find("belong together"), std::string::npos);
  set("eos_token_id", 2);
  set("vocab_size", 285);
  EXPECT_NE(complaint(folder()).find("belong together"), std::string::npos);
  set("vocab_size", 286);
  set("num_hidden_layers", 3);
  EXPECT_NE(complaint(folder()).find("model.layers.2"), std::string::npos);
  set("num_hidden_layers", 1);
  EXPECT_NE(complaint(folder()).find("model.layers.1"), std::string::npos);
  set("num_hidden_layers", 2);
  set("intermediate_size", 48);
  EXPECT_NE(complaint(folder()).find("[48, 24]"), std::string::npos);
  // A claim of petabytes takes none.
  set("intermediate_size", 1 << 26);
  EXPECT_NE(complaint(folder()), "");
}

TEST_F(HuggingFace, AnIndexThatDoesNotFitItsShardsIsRefused) {
  const std::string name = "model.safetensors.index.json";
  const Json good = parse_json(read_file(kGolden / name), name);
  const auto with = [&](const std::function<void(Json&)>& change) {
    Json index = good;
    change(index);
    folder_.file(name, index.dump());
    return complaint(folder());
  };
  ASSERT_EQ(with([](Json&) {}), "");
  for (const char* shard : {"../model-00001-of-00002.safetensors", "/etc/passwd", "x.bin", "", ".safetensors",
                            "model-00003-of-00002.safetensors", "model-00002-of-00002.safetensors"})
    EXPECT_NE(with([&](Json& i) { i["weight_map"]["model.embed_tokens.weight"] = shard; }), "") << shard;
  EXPECT_NE(with([](Json& i) { i["weight_map"]["model.embed_tokens.weight"] = 1; }), "");
  EXPECT_NE(with([](Json& i) { i["weight_map"].erase("model.norm.weight"); }), "");
  EXPECT_NE(with([](Json& i) { i["weight_map"]["more.weight"] = "model-00001-of-00002.safetensors"; }), "");
  EXPECT_NE(with([](Json& i) { i["weight_map"] = Json::array(); }), "");
  EXPECT_NE(with([](Json& i) { i = Json::array(); }), "");
  fs::remove(folder() / name);
  EXPECT_NE(complaint(folder()).find("model.safetensors"), std::string::npos);
  folder_.file("pytorch_model.bin", "x");
  EXPECT_NE(complaint(folder()).find("safe_serialization"), std::string::npos);
}

// Whatever a damaged folder holds, it is an Error or a model of finite numbers.
TEST_F(HuggingFace, DamagedFilesNeverDoHarm) {
  const Random random(3, stream_of("damaged folders"));
  uint64_t draw = 0;
  int64_t refused = 0, read = 0;
  for (const fs::path& path : files_) {
    if (path.filename() == "generation_config.json") continue;
    const std::string good = read_file(path);
    const size_t header =
        path.extension() == ".safetensors" ? std::min<size_t>(good.size(), 2000) : good.size();
    for (int round = 0; round < 250; ++round) {
      std::string file = good;
      for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
        const bool anywhere = random.below(draw++, 4) == 0;
        const size_t at = random.below(draw++, anywhere ? file.size() : std::min(header, file.size()));
        switch (random.below(draw++, 3)) {
          case 0:
            file[at] = static_cast<char>(random.bits(draw++));
            break;
          case 1:
            file.resize(at + 1);
            break;
          default:
            file[at] = "0123456789{}[]\",:-"[random.below(draw++, 18)];
        }
      }
      std::ofstream(path, std::ios::binary) << file;  // a thousand syncs would take their time
      try {
        const PretrainedModel pretrained = read_hugging_face(folder(), {}, cpu_backend());
        ++read;
      } catch (const Error& error) {
        ++refused;
      }
    }
    write_file(path, good);
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(read, 10);
  EXPECT_EQ(complaint(folder()), "");
}

TEST(HuggingFaceConfig, OfTinyLlamaIsRead) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (data == nullptr) GTEST_SKIP() << "HARMONIC_DATA is not set";
  const fs::path path = fs::path(data) / "llama/tinyllama_config.json";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is not there";
  const LlamaShape shape = read_hugging_face_config(read_file(path), path.string()).shape;
  const auto tokenizer = load_tokenizer(fs::path(data) / "llama/tokenizer.model");
  const ModelConfig config = config_of(shape, *tokenizer, "TinyLlama");
  EXPECT_EQ(config.d_model, 2048);
  EXPECT_EQ(config.d_ffn(), 5632);
  EXPECT_EQ(config.attention.n_kv_heads, 4);
  EXPECT_EQ(config.bos(), 1);
  int64_t parameters = 0;
  for (const LlamaTensor& tensor : tensors_of(shape)) parameters += tensor.size();
  EXPECT_EQ(parameters, 1'100'048'384);
}

// Its folder as it is published, every width a sixteenth and two layers of 22, with random numbers.
TEST(HuggingFaceConfig, AFolderOfTinyLlamasFormIsLoadedWithItsTokenizerAndChat) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (data == nullptr) GTEST_SKIP() << "HARMONIC_DATA is not set";
  const fs::path source = fs::path(data) / "llama";
  if (!fs::exists(source / "tinyllama_config.json"))
    GTEST_SKIP() << source << " has no tinyllama_config.json";
  Json config = parse_json(read_file(source / "tinyllama_config.json"), "config.json");
  config["hidden_size"] = 128;
  config["head_dim"] = 4;
  config["intermediate_size"] = 352;
  config["num_hidden_layers"] = 2;
  const TemporaryFolder folder;
  folder.file("config.json", config.dump());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    folder.file(name, read_file(source / (std::string("tinyllama_") + name)));
  const LlamaShape shape = read_hugging_face_config(config.dump(), "config.json").shape;
  ASSERT_EQ(shape.heads, 32);
  ASSERT_EQ(shape.kv_heads, 4);
  std::vector<SafetensorsWriter::Entry> entries;
  const auto theirs = [](int64_t layer, const char* part) {
    return fmt::format("model.layers.{}.{}.weight", layer, part);
  };
  entries.push_back({"model.embed_tokens.weight", StoredType::bf16, {32000, 128}});
  for (int64_t i = 0; i < 2; ++i)
    for (const auto& [part, size] : std::initializer_list<std::pair<const char*, std::vector<int64_t>>>{
             {"input_layernorm", {128}},
             {"self_attn.q_proj", {128, 128}},
             {"self_attn.k_proj", {16, 128}},
             {"self_attn.v_proj", {16, 128}},
             {"self_attn.o_proj", {128, 128}},
             {"post_attention_layernorm", {128}},
             {"mlp.gate_proj", {352, 128}},
             {"mlp.up_proj", {352, 128}},
             {"mlp.down_proj", {128, 352}}})
      entries.push_back({theirs(i, part), StoredType::bf16, size});
  entries.push_back({"model.norm.weight", StoredType::bf16, {128}});
  entries.push_back({"lm_head.weight", StoredType::bf16, {32000, 128}});
  const Random random(6, stream_of("TinyLlama's form"));
  uint64_t draw = 0;
  {
    SafetensorsWriter writer(folder / "model.safetensors", entries);
    for (const auto& entry : entries) {
      int64_t size = 1;
      for (const int64_t length : entry.shape) size *= length;
      std::vector<uint16_t> numbers;  // of 0.03 to 0.06, and their negatives
      for (int64_t i = 0; i < size; ++i)
        numbers.push_back(static_cast<uint16_t>(0x3D00 | (random.bits(draw++) & 0x807F)));
      writer.append(numbers.data(), size * 2);
    }
    writer.commit();
  }

  const PretrainedModel pretrained = read_hugging_face(folder / ".", {}, cpu_backend());
  EXPECT_EQ(pretrained.loaded.chat_template, "zephyr");
  const Model& model = *pretrained.loaded.model;
  EXPECT_EQ(model.config().attention.context, 2048);
  EXPECT_EQ(model.config().bos(), 1);
  EXPECT_EQ(model.config().eot_token_id, 2);
  // It reads a text, at once and token by token, to the same bits.
  std::vector<int32_t> tokens = {pretrained.loaded.tokenizer->bos()};
  pretrained.loaded.tokenizer->encode("Once upon a time there was a model.", tokens);
  ThreadPool pool(2);
  Inference inference(model, pool);
  State whole(model.state_layout()), single(model.state_layout());
  const Tensor last = inference.advance(whole, tokens.data(), static_cast<int64_t>(tokens.size()));
  const std::vector<float> logits(last.as<float>(), last.as<float>() + 32000);
  Tensor again;
  for (const int32_t& token : tokens) again = inference.advance(single, &token, 1);
  EXPECT_EQ(0, std::memcmp(again.as<float>(), logits.data(), logits.size() * sizeof(float)));
  EXPECT_GT(*std::max_element(logits.begin(), logits.end()), 0);
}

}  // namespace harmonic
