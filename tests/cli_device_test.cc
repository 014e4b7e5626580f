// What --device comes to where there is no card, as child processes.
#include <gtest/gtest.h>

#include "harmonic/ops/cuda_plugin.h"
#include "harmonic/ops/matmul.h"
#include "harmonic/ops/simd_targets.h"
#include "tests/cli_process.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

class DeviceFlag : public ::testing::Test {
 protected:
  // harmonic generate, of a model of bytes, with a library in place of the cuda backend's.
  Outcome generate(const std::string& device, const std::string& library) const {
    const std::string model = folder_ / "model";
    if (!fs::exists(model)) make_model_folder(model, *make_byte_tokenizer());
    return run_harmonic(
        {"generate", "--model", model, "--prompt", "a", "--max-tokens", "1", "--device", device},
        {"HARMONIC_CUDA_PLUGIN=" + library});
  }
  TemporaryFolder folder_;
};

TEST_F(DeviceFlag, CudaWithoutACardSaysSoAndWhatTheDriverAnswers) {
  const Outcome outcome = generate("cuda", HARMONIC_FAKE_CUDA);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("there is no CUDA device: the driver answers error 35"), std::string::npos)
      << outcome.err;
  EXPECT_NE(outcome.err.find("--device cpu computes without a card"), std::string::npos) << outcome.err;
}

TEST_F(DeviceFlag, AutoWithoutACardComputesOnTheCpuAndSaysSo) {
  const Outcome outcome = generate("auto", HARMONIC_FAKE_CUDA);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("computing on the cpu"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("error 35"), std::string::npos) << outcome.err;
}

TEST_F(DeviceFlag, ALibraryOfAnotherBuildIsRefused) {
  const Outcome outcome = generate("cuda", HARMONIC_FAKE_CUDA_OF_ANOTHER_BUILD);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find("0.0.0-of-another-day"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("build both together"), std::string::npos) << outcome.err;
}

TEST_F(DeviceFlag, ALibraryThatIsNotThereIsNamed) {
  const std::string nowhere = folder_ / "nowhere.so";
  const Outcome outcome = generate("cuda", nowhere);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.err.find(nowhere), std::string::npos) << outcome.err;
}

TEST_F(DeviceFlag, ACommandThatComputesOnTheCpuOnlyRefusesCuda) {
  const std::vector<std::vector<std::string>> commands = {
      {"bench", "length"}, {"inspect", "x"}, {"serve", "--model", "x"}, {"pack", "--model", "x", "y", "z"}};
  for (std::vector<std::string> words : commands) {
    words.insert(words.end(), {"--device", "cuda"});
    const Outcome outcome = run_harmonic(words);
    EXPECT_EQ(outcome.status, 2) << words[0];
    EXPECT_NE(outcome.err.find("computes on the cpu only"), std::string::npos) << outcome.err;
  }
}

TEST_F(DeviceFlag, ProductsInBf16AreThoseOfProcessorsThatHaveThem) {
  const Outcome outcome =
      run_harmonic({"bench", "train", "--precision", "f32,bf16", "--device", "cpu", "--mixers", "harmonic",
                    "--d-model", "32", "--lengths", "50", "--vocab", "64", "--tokens", "50", "--runs", "1"});
  if (multiplies_in_bf16()) {
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_NE(outcome.out.find("(bf16 "), std::string::npos) << outcome.out;
    EXPECT_NE(outcome.out.find("harmonic  bf16"), std::string::npos) << outcome.out;
  } else {
    EXPECT_EQ(outcome.status, 2);
    EXPECT_NE(outcome.err.find(processor_name()), std::string::npos) << outcome.err;
  }
}

TEST_F(DeviceFlag, TheCpuDecodesInF32) {
  const Outcome outcome = run_harmonic({"bench", "decode", "--precision", "bf16", "--device", "cpu"});
  EXPECT_EQ(outcome.status, 2);
  const std::string text = multiplies_in_bf16() ? "--weights bf16" : processor_name();
  EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
}

// The library itself, where it was built and there is no card; with one, ops_tests use it
// (HARMONIC_TEST_DEVICE=cuda).
TEST(CudaPlugin, TheRealOneSaysThatThereIsNoDevice) {
  const fs::path path = fs::path(HARMONIC_PROGRAM).parent_path() / "libharmonic_cuda.so";
  if (!fs::exists(path)) GTEST_SKIP() << "the cuda backend was not built: no nvcc";
  if (fs::exists("/dev/nvidiactl")) GTEST_SKIP() << "there is a card";
  try {
    load_cuda_plugin(path.string());
    FAIL() << "a backend without a card";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("there is no CUDA device: the driver answers error"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace harmonic
