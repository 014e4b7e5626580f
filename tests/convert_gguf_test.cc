// GGUF files: blocks against the package gguf, a golden model against transformers, and files that are
// refused.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "harmonic/base/error.h"
#include "harmonic/base/random.h"
#include "harmonic/convert/convert.h"
#include "harmonic/convert/gguf.h"
#include "harmonic/convert/gguf_file.h"
#include "tests/cli_program.h"
#include "tests/golden_model.h"
#include "tests/model_folder_fixture.h"
#include "tests/sentencepiece_fixture.h"
#include "tests/small_models.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(HARMONIC_SOURCE_DIR) / "tests/golden";

std::string complaint(const fs::path& path) {
  try {
    read_gguf(path, {}, cpu_backend());
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

template <typename T>
std::string bytes_of(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof number};
}
std::string text_of(std::string_view text) { return bytes_of(uint64_t{text.size()}) + std::string(text); }

// A file put together by hand, so that any part of it can be wrong.
struct HandMade {
  std::vector<std::pair<std::string, std::string>> values;   // key, its kind and value in bytes
  std::vector<std::pair<std::string, std::string>> tensors;  // name, the rest of its record
  std::string data;

  void set(const std::string& key, std::string bytes) {
    for (auto& [name, value] : values)
      if (name == key) {
        value = std::move(bytes);
        return;
      }
    values.emplace_back(key, std::move(bytes));
  }
  void erase(const std::string& key) {
    std::erase_if(values, [&](const auto& value) { return value.first == key; });
  }
  static std::string integer(uint32_t number) { return bytes_of(uint32_t{4}) + bytes_of(number); }
  static std::string real(float number) { return bytes_of(uint32_t{6}) + bytes_of(number); }
  static std::string flag(bool value) { return bytes_of(uint32_t{7}) + bytes_of(value); }
  static std::string text(std::string_view value) { return bytes_of(uint32_t{8}) + text_of(value); }
  template <typename T, typename Put>
  static std::string list(uint32_t kind, const std::vector<T>& elements, Put put) {
    std::string bytes = bytes_of(uint32_t{9}) + bytes_of(kind) + bytes_of(uint64_t{elements.size()});
    for (const T& element : elements) bytes += put(element);
    return bytes;
  }

  void add_tensor(const std::string& name, const std::vector<int64_t>& shape, const float* numbers) {
    std::string record = bytes_of(static_cast<uint32_t>(shape.size()));
    int64_t size = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      record += bytes_of(static_cast<uint64_t>(shape[i]));
      size *= shape[i];
    }
    data.resize((data.size() + 31) / 32 * 32);
    record += bytes_of(uint32_t{0}) + bytes_of(uint64_t{data.size()});
    tensors.emplace_back(name, record);
    data.append(reinterpret_cast<const char*>(numbers), static_cast<size_t>(size) * 4);
  }
  std::string file() const {
    std::string bytes = "GGUF" + bytes_of(uint32_t{3}) + bytes_of(uint64_t{tensors.size()}) +
                        bytes_of(uint64_t{values.size()});
    for (const auto& [key, value] : values) bytes += text_of(key) + value;
    for (const auto& [name, record] : tensors) bytes += text_of(name) + record;
    bytes.resize((bytes.size() + 31) / 32 * 32);
    return bytes + data;
  }
};

// A small model with SentencePiece's vocabulary, as llama.cpp's converter would write it.
HandMade small_file(Model& model, const std::string& name_of_last = "") {
  using Kind = SentencePieceVocabulary::Kind;
  const ModelConfig& c = model.config();
  const auto number = [](int64_t value) { return HandMade::integer(static_cast<uint32_t>(value)); };
  HandMade file;
  file.set("general.architecture", HandMade::text("llama"));
  file.set("llama.block_count", number(c.n_layers));
  file.set("llama.context_length", number(c.attention.context));
  file.set("llama.embedding_length", number(c.d_model));
  file.set("llama.feed_forward_length", number(c.d_ffn()));
  file.set("llama.attention.head_count", number(c.attention.n_heads));
  file.set("llama.attention.head_count_kv", number(c.attention.n_kv_heads));
  file.set("llama.attention.layer_norm_rms_epsilon", HandMade::real(static_cast<float>(c.norm_epsilon)));
  const ScoredVocabulary scored = small_scored_vocabulary();
  std::vector<std::string> names;
  std::vector<int32_t> types;
  for (size_t id = 0; id < scored.vocabulary.tokens.size(); ++id) {
    const std::string& token = scored.vocabulary.tokens[id];
    const Kind kind = scored.vocabulary.kinds[id];
    std::string name;
    for (const char b : token) name += kind == Kind::text && b == ' ' ? "\xE2\x96\x81" : std::string(1, b);
    if (kind == Kind::byte) name = fmt::format("<0x{:02X}>", static_cast<uint8_t>(token[0]));
    names.push_back(name);
    types.push_back(kind == Kind::byte ? 6 : kind == Kind::text ? 1 : id == 0 ? 2 : 3);
  }
  if (!name_of_last.empty()) names.back() = name_of_last;
  file.set("tokenizer.ggml.model", HandMade::text("llama"));
  file.set("tokenizer.ggml.tokens", HandMade::list(8, names, [](const auto& name) { return text_of(name); }));
  file.set("tokenizer.ggml.scores", HandMade::list(6, scored.scores, bytes_of<float>));
  file.set("tokenizer.ggml.token_type", HandMade::list(5, types, bytes_of<int32_t>));
  file.set("tokenizer.ggml.bos_token_id", number(1));
  file.set("tokenizer.ggml.eos_token_id", number(2));

  const std::pair<const char*, const char*> parts[] = {
      {"mixer_norm", "attn_norm"},     {"mixer.q_proj", "attn_q"},
      {"mixer.k_proj", "attn_k"},      {"mixer.v_proj", "attn_v"},
      {"mixer.o_proj", "attn_output"}, {"ffn_norm", "ffn_norm"},
      {"ffn.gate", "ffn_gate"},        {"ffn.up", "ffn_up"},
      {"ffn.down", "ffn_down"}};
  const auto add = [&](const std::string& ours, const std::string& theirs) {
    const Tensor& value = model.parameters().find(ours)->value;
    const int64_t head = c.d_model / c.attention.n_heads;
    const bool rotated = ours.ends_with("q_proj.weight") || ours.ends_with("k_proj.weight");
    std::vector<float> numbers;
    for (int64_t row = 0; row < value.rows; ++row) {
      // Its pairs are neighbours: row 2 i is ours i, row 2 i + 1 ours i + half a head.
      const int64_t in_head = row % head;
      const int64_t from = rotated ? row - in_head + in_head / 2 + in_head % 2 * (head / 2) : row;
      numbers.insert(numbers.end(), value.row<float>(from), value.row<float>(from) + value.cols);
    }
    file.add_tensor(theirs, value.rows == 1 ? std::vector{value.cols} : std::vector{value.rows, value.cols},
                    numbers.data());
  };
  add("embed.weight", "token_embd.weight");
  for (int64_t i = 0; i < c.n_layers; ++i)
    for (const auto& [ours, theirs] : parts)
      add(fmt::format("layers.{}.{}.weight", i, ours), fmt::format("blk.{}.{}.weight", i, theirs));
  add("final_norm.weight", "output_norm.weight");
  if (!c.tie_embeddings) add("head.weight", "output.weight");
  return file;
}

class Gguf : public testing::Test {
 protected:
  Gguf() {
    ModelConfig config;
    take_vocabulary(config, *small_sentencepiece());
    config.mixer = {"attention"};
    config.d_model = 24;
    config.n_layers = 2;
    config.ffn_multiple = 2;
    config.norm_epsilon = 1e-6;
    config.attention.n_heads = 3;
    config.attention.n_kv_heads = 1;
    config.attention.context = 20;
    model_ = std::make_unique<Model>(config, cpu_backend(), false);
    initialise_for_test(*model_, 8);
    file_ = small_file(*model_);
  }
  std::string write(const std::string& content) const {
    const std::string path = folder_ / "model.gguf";
    std::ofstream(path, std::ios::binary) << content;  // thousands of syncs would take their time
    return path;
  }
  std::string said_of(const std::function<void(HandMade&)>& change) const {
    HandMade file = file_;
    change(file);
    return complaint(write(file.file()));
  }

  TemporaryFolder folder_;
  std::unique_ptr<Model> model_;
  HandMade file_;
};

}  // namespace

TEST(GgufBlocks, AreWhatThePackageMakesOfThemToTheBit) {
  const SafetensorsFile golden(kGolden / "gguf_blocks.safetensors");
  int64_t checked = 0;
  for (uint32_t id = 0; id <= 30; ++id) {
    const GgufType* type = nullptr;
    try {
      type = &gguf_type(id, "a tensor");
    } catch (const Error&) {
      continue;
    }
    if (type->name == "F32") continue;
    const StoredTensor& blocks = golden.at(std::string(type->name) + ".blocks");
    const StoredTensor& values = golden.at(std::string(type->name) + ".values");
    ASSERT_EQ(values.size, blocks.shape[0] * type->block) << type->name;
    ASSERT_EQ(blocks.shape[1], type->bytes) << type->name;
    std::vector<float> numbers(static_cast<size_t>(values.size), std::nanf(""));
    dequantise(*type, blocks.bytes, values.size, numbers.data());
    EXPECT_EQ(0, std::memcmp(numbers.data(), values.bytes.data(), values.bytes.size())) << type->name;
    ++checked;
  }
  EXPECT_EQ(checked * 2, static_cast<int64_t>(golden.tensors().size()));
}

TEST(GgufBlocks, TypesThatAreNotReadAreRefusedByName) {
  for (const auto& [id, name] :
       {std::pair(6u, "Q5_0"), {11u, "Q3_K"}, {13u, "Q5_K"}, {20u, "IQ4_NL"}, {24u, "I8"}}) {
    try {
      gguf_type(id, "tensor \"x\"");
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(gguf_type(4, "x"), Error);
  EXPECT_THROW(gguf_type(99, "x"), Error);
  EXPECT_THROW(gguf_type(0xFFFFFFFF, "x"), Error);
}

TEST(GgufModel, LogitsAndTokensEqualThoseOfTheLibraries) {
  const SafetensorsFile golden(kGolden / "small_llama_gguf.safetensors");
  const PretrainedModel pretrained = read_pretrained(kGolden / "small_llama.gguf", {}, cpu_backend());
  const Tokenizer& tokenizer = *pretrained.loaded.tokenizer;
  const std::vector<int32_t> tokens = golden_tokens(golden);
  std::vector<int32_t> own = {tokenizer.bos()};
  tokenizer.encode(golden.metadata().at("text"), own);
  EXPECT_EQ(own, tokens);
  expect_golden_logits(*pretrained.loaded.model, tokens, golden, "logits");

  // A model that is trained to chat says the tokens of its turns; texts are led and ended by another.
  EXPECT_EQ(tokenizer.eot(), 0);
  EXPECT_EQ(tokenizer.special("<|im_end|>"), 2);
  const TemporaryFolder folder;
  const auto again = load_tokenizer(folder.file("t.json", tokenizer.to_json()));
  EXPECT_EQ(again->hash(), tokenizer.hash());
  EXPECT_EQ(again->encode(golden.metadata().at("text")), tokenizer.encode(golden.metadata().at("text")));
}

// Blocks that stay as they are are another form of the same model.
TEST(GgufModel, KeptBlocksGiveTheBitsOfTheUnpackedModel) {
  const auto path = kGolden / "small_llama.gguf";
  LoadedModel unpacked = read_gguf(path, {}, cpu_backend()).loaded;
  const std::vector<int32_t> text = random_text(40, unpacked.model->config().vocab_size, 5);
  const auto logits_of = [&](Model& model, int64_t size, int threads) {
    ThreadPool pool(threads);
    Inference inference(model, pool);
    model.pack(inference.context());
    State state(model.state_layout());
    std::vector<float> all;
    for (size_t at = 0; at < text.size(); at += static_cast<size_t>(size)) {
      const Tensor logits =
          inference.advance(state, text.data() + at, std::min(size, static_cast<int64_t>(text.size() - at)));
      all.assign(logits.as<float>(), logits.as<float>() + logits.cols);
    }
    return all;
  };
  const std::string hash = unpacked.model->parameters().hash();
  const std::vector<float> expected = logits_of(*unpacked.model, 40, 1);
  for (const int64_t size : {1, 7, 40}) {
    LoadedModel kept = read_gguf(path, {.keep_blocks = true}, cpu_backend()).loaded;
    std::set<DType> found;
    for (size_t i = 0; i < kept.model->parameters().size(); ++i) {
      const Parameter& parameter = kept.model->parameters()[i];
      if (!parameter.packed) continue;
      found.insert(parameter.packed.dtype);
      EXPECT_EQ(parameter.value.data, nullptr) << parameter.name;
    }
    EXPECT_EQ(found, (std::set<DType>{DType::q8_0, DType::q4_1}));
    EXPECT_EQ(kept.model->parameters().hash(), hash);
    EXPECT_EQ(logits_of(*kept.model, size, 2), expected) << "pieces of " << size;
  }
}

TEST(GgufBlocks, ScalesThatAreNotFiniteAreFound) {
  for (const uint32_t id : {3u, 8u}) {
    const GgufType& type = gguf_type(id, "");
    std::vector<uint8_t> bytes(static_cast<size_t>(3 * type.bytes), 0xff);  // q is of any bits
    for (size_t i = 0; i < 3; ++i) std::memset(bytes.data() + i * static_cast<size_t>(type.bytes), 0, 4);
    EXPECT_TRUE(blocks_are_finite(type, bytes)) << type.name;
    const size_t last = 2 * static_cast<size_t>(type.bytes) + (id == 3 ? 2 : 0);
    bytes[last + 1] = 0x7c;
    EXPECT_FALSE(blocks_are_finite(type, bytes)) << type.name;
    bytes[last + 1] = 0xfe;
    EXPECT_FALSE(blocks_are_finite(type, bytes)) << type.name;
  }
}

TEST_F(Gguf, EveryNumberAndSettingIsKept) {
  const PretrainedModel pretrained = read_pretrained(write(file_.file()), {}, cpu_backend());
  EXPECT_EQ(pretrained.loaded.model->parameters().hash(), model_->parameters().hash());
  EXPECT_EQ(pretrained.loaded.model->config().to_json(), model_->config().to_json());
  EXPECT_EQ(pretrained.parameters, model_->parameters().count());
  EXPECT_EQ(pretrained.loaded.tokenizer->hash(), small_sentencepiece()->hash());
  EXPECT_EQ(pretrained.loaded.chat_template, "");
}

TEST_F(Gguf, PositionScalingIsRead) {
  HandMade file = file_;
  file.set("llama.rope.freq_base", HandMade::real(5e5f));
  file.set("llama.rope.scaling.type", HandMade::text("yarn"));
  file.set("llama.rope.scaling.factor", HandMade::real(4));
  file.set("llama.rope.scaling.original_context_length", HandMade::integer(5));
  const AttentionConfig attention =
      read_gguf(write(file.file()), {}, cpu_backend()).loaded.model->config().attention;
  EXPECT_EQ(attention.rope_base, 5e5);
  EXPECT_EQ(attention.rope.kind, "yarn");
  EXPECT_EQ(attention.rope.factor, 4);
  EXPECT_EQ(attention.rope.context, 5);
}

TEST_F(Gguf, AFactorOfPositionsWithoutAKindIsLinearAsInLlamaCpp) {
  HandMade file = file_;
  file.set("llama.rope.scaling.factor", HandMade::real(4));
  const AttentionConfig attention =
      read_gguf(write(file.file()), {}, cpu_backend()).loaded.model->config().attention;
  EXPECT_EQ(attention.rope.kind, "linear");
  EXPECT_EQ(attention.rope.factor, 4);
}

TEST_F(Gguf, AVocabularyThatNoTokenizerJsonCanTellApartIsNotConverted) {
  const HandMade file = small_file(*model_, "<s>");  // a text with the name of the token that begins texts
  const TemporaryFolder folder;
  const Outcome outcome = run_harmonic({"convert", "--from", write(file.file()), "--out", folder / "m"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("kept as a tokenizer.json"), std::string::npos) << outcome.err;
  EXPECT_FALSE(is_there(folder / "m"));
}

TEST_F(Gguf, WhatIsNotSupportedIsRefusedByName) {
  ASSERT_EQ(said_of([](HandMade&) {}), "");
  const auto set = [](const char* key, std::string value) {
    return [key, value](HandMade& file) { file.set(key, value); };
  };
  const std::vector<std::string> merges = {"a b c"};
  const auto merge_list = HandMade::list(8, merges, [](const auto& text) { return text_of(text); });
  const std::pair<std::function<void(HandMade&)>, const char*> cases[] = {
      {set("general.architecture", HandMade::text("qwen2")), "qwen2"},
      {set("llama.rope.scaling.factor", HandMade::real(0.5)), "llama.rope.scaling.factor"},
      {set("general.architecture", HandMade::text("two\nlines" + std::string(500, 'x'))), "two?lines"},
      {[](HandMade& f) { f.erase("general.architecture"); }, "general.architecture"},
      {[](HandMade& f) { f.erase("llama.block_count"); }, "llama.block_count"},
      {set("llama.block_count", HandMade::integer(0)), "llama.block_count"},
      {set("llama.block_count", HandMade::integer(5000)), "llama.block_count"},
      {set("llama.block_count", HandMade::real(2)), "llama.block_count"},
      {set("llama.block_count", HandMade::integer(3)), "blk.2"},
      {set("llama.block_count", HandMade::integer(1)), "blk.1"},
      {set("llama.attention.head_count", HandMade::integer(5)), "5 heads"},
      {set("llama.attention.head_count_kv", HandMade::integer(2)), "n_kv_heads"},
      {set("llama.feed_forward_length", HandMade::integer(1 << 26)), "ffn_multiple"},
      {set("llama.rope.dimension_count", HandMade::integer(4)), "llama.rope.dimension_count"},
      {set("llama.attention.key_length", HandMade::integer(64)), "llama.attention.key_length"},
      {set("llama.expert_count", HandMade::integer(8)), "llama.expert_count"},
      {set("llama.attention.sliding_window", HandMade::integer(8)), "llama.attention.sliding_window"},
      {set("llama.rope.scaling.type", HandMade::text("longrope")), "longrope"},
      {set("llama.attention.layer_norm_rms_epsilon", HandMade::real(std::nanf(""))), "epsilon"},
      {set("split.count", HandMade::integer(2)), "split.count"},
      {set("tokenizer.ggml.model", HandMade::text("bert")), "bert"},
      {set("tokenizer.ggml.add_bos_token", HandMade::flag(false)), "add_bos_token"},
      {set("tokenizer.ggml.add_eos_token", HandMade::flag(true)), "add_eos_token"},
      {set("tokenizer.ggml.eos_token_id", HandMade::integer(7)), "belong together"},
      {set("tokenizer.ggml.something_new", HandMade::integer(7)), "something_new"},
      {set("tokenizer.ggml.tokens", HandMade::integer(7)), "tokenizer.ggml.tokens"},
      {set("tokenizer.ggml.scores", HandMade::list(6, std::vector<float>{1, 2}, bytes_of<float>)),
       "2 scores"},
      {[&](HandMade& f) {
         f.set("tokenizer.ggml.model", HandMade::text("gpt2"));
         f.set("tokenizer.ggml.pre", HandMade::text("llama-bpe"));
       },
       "llama-bpe"},
      {[&](HandMade& f) {
         f.set("tokenizer.ggml.model", HandMade::text("gpt2"));
         f.set("tokenizer.ggml.pre", HandMade::text("gpt-2"));
         f.set("tokenizer.ggml.merges", merge_list);
       },
       "type 6"},
      {[](HandMade& f) { f.add_tensor("rope_freqs.weight", {4}, std::vector<float>(4, 1).data()); },
       "rope_freqs.weight"},
  };
  for (const auto& [change, name] : cases) {
    const std::string message = said_of(change);
    EXPECT_NE(message.find(name), std::string::npos) << name << ": " << message;
    EXPECT_NE(message.find("model.gguf"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST_F(Gguf, WrongFormsAreRefused) {
  const std::string good = file_.file();
  const auto with = [&](size_t at, const std::string& bytes) {
    std::string file = good;
    file.replace(at, bytes.size(), bytes);
    return complaint(write(file));
  };
  EXPECT_NE(with(4, bytes_of(uint32_t{2})).find("version 2"), std::string::npos);
  EXPECT_NE(with(4, bytes_of(uint32_t{0x03000000})).find("big-endian"), std::string::npos);
  EXPECT_NE(with(8, bytes_of(uint64_t{1} << 60)).find("number of tensors"), std::string::npos);
  EXPECT_NE(with(16, bytes_of(~uint64_t{0})).find("number of values"), std::string::npos);
  EXPECT_NE(with(24, bytes_of(uint64_t{1} << 62)).find("length of key 0"), std::string::npos);
  EXPECT_NE(complaint(write(good + std::string(32, '\0'))).find("follow its last tensor"), std::string::npos);
  EXPECT_NE(complaint(write(good.substr(0, good.size() - 1))).find("cut short"), std::string::npos);

  const auto tensor = [&](uint32_t dimensions, std::vector<uint64_t> lengths, uint32_t type,
                          uint64_t offset) {
    return said_of([&](HandMade& file) {
      std::string& record = file.tensors.back().second;
      record = bytes_of(dimensions);
      for (const uint64_t length : lengths) record += bytes_of(length);
      record += bytes_of(type) + bytes_of(offset);
    });
  };
  EXPECT_NE(tensor(0, {}, 0, 0).find("0 dimensions"), std::string::npos);
  EXPECT_NE(tensor(5, {1, 1, 1, 1, 1}, 0, 0).find("5 dimensions"), std::string::npos);
  EXPECT_NE(tensor(1, {0}, 0, 0).find("0 long"), std::string::npos);
  EXPECT_NE(tensor(2, {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0).find("too large"), std::string::npos);
  EXPECT_NE(tensor(1, {uint64_t{1} << 47}, 8, 0).find("byte 0"), std::string::npos);
  EXPECT_NE(tensor(1, {24}, 8, 0).find("multiple of 32"), std::string::npos);
  EXPECT_NE(tensor(1, {24}, 0, ~uint64_t{0}).find("is said to be at"), std::string::npos);
  EXPECT_NE(tensor(1, {24}, 10, 0).find("Q2_K"), std::string::npos);
  const auto twice = said_of([](HandMade& f) { f.values.push_back(f.values.front()); });
  EXPECT_NE(twice.find("stands twice"), std::string::npos) << twice;
  const auto nested = said_of([](HandMade& f) { f.set("x", bytes_of(uint32_t{9}) + bytes_of(uint32_t{9})); });
  EXPECT_NE(nested.find("a list holds no lists"), std::string::npos) << nested;
  for (const uint32_t alignment : {0u, 4u, 48u, 1u << 20}) {
    const auto said = said_of([&](HandMade& f) { f.set("general.alignment", HandMade::integer(alignment)); });
    EXPECT_NE(said.find("general.alignment"), std::string::npos) << said;
  }
  const float bad = std::numeric_limits<float>::infinity();
  const auto infinite = said_of([&](HandMade& f) { f.data.replace(8, 4, bytes_of(bad)); });
  EXPECT_NE(infinite.find("embed.weight is not finite"), std::string::npos) << infinite;
}

// Whatever a damaged file holds, it is an Error that names it, or a model of finite numbers.
TEST_F(Gguf, DamagedFilesNeverDoHarm) {
  const std::string packed = read_file(kGolden / "small_llama.gguf");
  int64_t refused = 0, read = 0;
  const Random random(5, stream_of("damaged GGUF files"));
  uint64_t draw = 0;
  const auto try_one = [&](const std::string& content) {
    const std::string message = complaint(write(content));
    if (!message.empty()) {
      EXPECT_NE(message.find("model.gguf"), std::string::npos) << message;
    }
    ++(message.empty() ? read : refused);
  };
  const std::string whole = file_.file();
  for (const auto& [good, header] :
       {std::pair(whole, whole.size() - file_.data.size()), std::pair(packed, size_t{5600})}) {
    for (size_t length = 0; length < good.size(); length += 1 + length / 64) try_one(good.substr(0, length));
    for (int round = 0; round < 400; ++round) {
      std::string file = good;
      for (uint64_t changes = 1 + random.below(draw++, 3); changes > 0; --changes) {
        const bool anywhere = random.below(draw++, 8) == 0;
        const size_t at = random.below(draw++, anywhere ? file.size() : header);
        const bool small = random.below(draw++, 2) == 0;
        file[at] = static_cast<char>(small ? random.below(draw, 3) : random.bits(draw));
        ++draw;
      }
      try_one(file);
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(read, 50);
}

TEST(GgufCommand, AModelThatWasConvertedWritesTextAndPassesItsCertificate) {
  const TemporaryFolder folder;
  const std::string model = folder / "small";
  const Outcome converted = run_harmonic({"convert", "--from", kGolden / "small_llama.gguf", "--out", model});
  ASSERT_EQ(converted.status, 0) << converted.err;
  EXPECT_NE(converted.out.find("GGUF file"), std::string::npos) << converted.out;
  EXPECT_NE(converted.out.find("no template that is known"), std::string::npos) << converted.out;
  const Outcome text = run_harmonic(
      {"generate", "--model", model, "--prompt", "the hat 12", "--max-tokens", "20", "--threads", "1"});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(text.out.starts_with("the hat 12")) << text.out;
  const Outcome certificate = run_harmonic({"check", "--model", model, "--threads", "1"});
  EXPECT_EQ(certificate.status, 0) << certificate.out << certificate.err;
}

}  // namespace harmonic
