#include "harmonic/model/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/base/random.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("harmonic_safetensors_{}", ::getpid());
    fs::create_directories(folder_);
    path_ = folder_ / "model.safetensors";
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(std::string header, std::string_view data) {
    const uint64_t length = header.size();
    write_file(path_, std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data));
  }
  // The message of opening the file; "no error" when it opens.
  std::string verdict() {
    try {
      SafetensorsFile file(path_);
      return "no error";
    } catch (const Error& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with(path_.string())) << error.what();
      return error.what();
    }
  }
  std::string verdict(const std::string& header, std::string_view data) {
    write(header, data);
    return verdict();
  }
  void write_sample() {
    const float a[6] = {1, -2, 3, 4, 5, 6.5f};
    const int64_t b[1] = {-7};
    SafetensorsWriter writer(path_,
                             {{"b.weight", StoredType::f32, {2, 3}},
                              {"a", StoredType::i64, {}},
                              {"none", StoredType::bf16, {0, 4}},
                              {"odd \"name\" \xc3\xa9", StoredType::u8, {3}}},
                             {{"step", "12"}});
    writer.append(a, 10);  // pieces of any size
    writer.append(reinterpret_cast<const char*>(a) + 10, sizeof a - 10);
    writer.append(b, sizeof b);
    writer.append("xyz", 3);
    writer.commit();
  }

  fs::path folder_, path_;
};

TEST_F(Safetensors, ReadsBackWhatWasWritten) {
  write_sample();
  const SafetensorsFile file(path_);
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "pt"}, {"step", "12"}}));
  EXPECT_EQ(file.at("b.weight").shape, (std::vector<int64_t>{2, 3}));
  float out[6];
  file.read("b.weight", std::vector<int64_t>{2, 3}, out);
  EXPECT_EQ(out[5], 6.5f);
  int64_t number;
  ASSERT_EQ(file.at("a").bytes.size(), 8u);
  std::memcpy(&number, file.at("a").bytes.data(), 8);
  EXPECT_EQ(number, -7);
  EXPECT_EQ(file.at("none").size, 0);
  EXPECT_EQ(file.at("odd \"name\" \xc3\xa9").bytes[2], 'z');
}

TEST_F(Safetensors, TheDataAreAlignedToEightBytes) {
  write_sample();
  const std::string content = read_file(path_);
  uint64_t length;
  std::memcpy(&length, content.data(), 8);
  EXPECT_EQ(length % 8, 0u);
}

TEST_F(Safetensors, HalvesAndDoublesBecomeFloatsExactly) {
  const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x8400, 0x7bff, 0x7c00, 0x7e00, 0x8000};
  const uint16_t brain[] = {0x3f80, 0xc000, 0x7f80, 0x0001};
  const double wide[] = {0.1, -3};
  SafetensorsWriter writer(
      path_,
      {{"half", StoredType::f16, {8}}, {"brain", StoredType::bf16, {4}}, {"wide", StoredType::f64, {2}}});
  writer.append(half, sizeof half);
  writer.append(brain, sizeof brain);
  writer.append(wide, sizeof wide);
  writer.commit();
  const SafetensorsFile file(path_);
  float out[8];
  file.read("half", std::vector<int64_t>{8}, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[2], 0x1p-24f);
  EXPECT_EQ(out[3], -0x1p-14f);
  EXPECT_EQ(out[4], 65504.0f);
  EXPECT_TRUE(std::isinf(out[5]));
  EXPECT_TRUE(std::isnan(out[6]));
  EXPECT_TRUE(out[7] == 0 && std::signbit(out[7]));
  file.read("brain", std::vector<int64_t>{4}, out);
  EXPECT_EQ(out[1], -2.0f);
  EXPECT_EQ(out[3], 0x1p-133f);
  file.read("wide", std::vector<int64_t>{2}, out);
  EXPECT_EQ(out[0], 0.1f);
}

TEST_F(Safetensors, AMissingNameAWrongShapeAndIntegersForWeightsAreErrors) {
  write_sample();
  const SafetensorsFile file(path_);
  float out[8];
  const auto error_of = [&](std::string_view name, std::vector<int64_t> shape) -> std::string {
    try {
      file.read(name, shape, out);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(error_of("b.weigth", {2, 3}).find("did you mean \"b.weight\"?"), std::string::npos);
  EXPECT_NE(error_of("b.weight", {3, 2}).find("has shape [2, 3]; the configuration expects [3, 2]"),
            std::string::npos);
  EXPECT_NE(error_of("b.weight", {6}), "no error");
  EXPECT_NE(error_of("a", {}).find("dtype I64"), std::string::npos);
}

TEST_F(Safetensors, EveryMalformedHeaderIsNamedAndRefused) {
  const std::string f4 = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  EXPECT_EQ(verdict("{\"a\":{" + f4 + "}}", "1234"), "no error");
  EXPECT_EQ(verdict("{\"a\":{" + f4 + "}}   ", "1234"), "no error");
  EXPECT_EQ(verdict("{}", ""), "no error");
  const std::pair<std::string, std::string> bad[] = {
      {"", ""},
      {"[]", ""},
      {"{", ""},
      {"{}x", ""},
      {"{}", "1"},
      {"{\"a\":{" + f4 + "}}", "123"},
      {"{\"a\":{" + f4 + "}}", "12345"},
      {"{\"a\":{" + f4 + "},\"a\":{" + f4 + "}}", "1234"},
      {"{\"a\":{" + f4 + ",\"dtype\":\"F32\"}}", "1234"},
      {"{\"a\":{" + f4 + ",\"extra\":1}}", "1234"},
      {"{\"a\":{" + f4 + ",\"shape\":[1]}}", "1234"},
      {"{\"a\":3}", ""},
      {"{\"a\":[" + f4 + "]}", ""},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", "1234"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "12345678"},  // a gap at the front
      {"{\"a\":{" + f4 + "},\"b\":{" + f4 + "}}", "1234"},                               // an overlap
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", ""},
      {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", ""},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}}", ""},
      {"{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551615],\"data_offsets\":[0,0]}}", ""},
      {"{\"__metadata__\":{\"a\":1}}", ""},
      {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", ""},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", ""},
      {"{\"__metadata__\":{\"a\":{}}}", ""},
      {"{\"a\":" + std::string(100'000, '['), ""},
      {"{\"a\xff\":{" + f4 + "}}", "1234"},
  };
  for (const auto& [header, data] : bad)
    EXPECT_NE(verdict(header, data), "no error") << header.substr(0, 200);
  EXPECT_NE(verdict("{\"a\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[0,1]}}", "1").find("\"BOOL\""),
            std::string::npos);
}

TEST_F(Safetensors, AHeaderLongerThanTheFileIsRefused) {
  for (const uint64_t length : {uint64_t{3}, uint64_t{1} << 40, ~uint64_t{0}}) {
    write_file(path_, std::string(reinterpret_cast<const char*>(&length), 8) + "{}");
    EXPECT_NE(verdict(), "no error") << length;
  }
  write_file(path_, "");
  EXPECT_NE(verdict(), "no error");
  write_file(path_, "1234567");
  EXPECT_NE(verdict(), "no error");
  fs::remove(path_);
  EXPECT_NE(verdict(), "no error");
  fs::create_directory(path_);
  EXPECT_NE(verdict(), "no error");
}

TEST_F(Safetensors, EveryCutIsNoticed) {
  write_sample();
  const std::string whole = read_file(path_);
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file(path_, std::string_view(whole).substr(0, size));
    EXPECT_NE(verdict(), "no error") << size;
  }
}

TEST_F(Safetensors, NoMutationReadsOutsideTheFile) {
  write_sample();
  const std::string whole = read_file(path_);
  uint64_t length;
  std::memcpy(&length, whole.data(), 8);
  const Random random(7, 0);
  int opened = 0, refused = 0;
  for (uint64_t trial = 0; trial < 4000; ++trial) {
    std::string mutant = whole;
    const auto numbers = random.block(trial);
    const std::string_view characters = "0123456789\"{}[],:-.eE \\aF\xff";
    for (uint32_t i = 0; i <= numbers[0] % 3; ++i) {
      const uint64_t range = numbers[1] % 4 == 0 ? 8 : 8 + length;
      const auto draw = random.block(uint64_t{1} << 32 | trial << 2 | i);
      const size_t at = draw[0] % range;
      switch (draw[1] % 4) {
        case 0:
          mutant[at] = static_cast<char>(draw[2]);
          break;
        case 1:
          mutant[at] = characters[draw[2] % characters.size()];
          break;
        case 2:
          mutant.erase(at, draw[2] % 8);
          break;
        case 3:
          mutant.insert(at, mutant.substr(draw[2] % mutant.size(), draw[3] % 16));
          break;
      }
    }
    std::FILE* file = std::fopen(path_.c_str(), "wb");  // no need to sync four thousand files
    ASSERT_EQ(std::fwrite(mutant.data(), 1, mutant.size(), file), mutant.size());
    std::fclose(file);
    try {
      const SafetensorsFile parsed(path_);
      ++opened;
      uint64_t sum = 0;  // touches every byte, which the address sanitizer and the map's end would object to
      for (const auto& [name, tensor] : parsed.tensors())
        for (const uint8_t byte : tensor.bytes) sum += byte;
      EXPECT_LT(sum, uint64_t{1} << 20);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(opened, 10);  // a changed name or metadata is still a good file
}

TEST_F(Safetensors, AWriterThatIsNotFinishedLeavesTheOldFile) {
  write_sample();
  const std::string before = read_file(path_);
  {
    SafetensorsWriter writer(path_, {{"a", StoredType::f32, {2}}});
    writer.append("1234", 4);
    EXPECT_THROW(writer.commit(), Error);
  }
  EXPECT_EQ(read_file(path_), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(Safetensors, AWriterRefusesDuplicateNamesAndSizesThatOverflow) {
  EXPECT_THROW(SafetensorsWriter(path_, {{"a", StoredType::f32, {1}}, {"a", StoredType::f32, {1}}}), Error);
  EXPECT_THROW(SafetensorsWriter(path_, {{"__metadata__", StoredType::f32, {1}}}), Error);
  EXPECT_THROW(SafetensorsWriter(path_, {{"a", StoredType::f32, {int64_t{1} << 62, 2}}}), Error);
}

}  // namespace
}  // namespace harmonic
