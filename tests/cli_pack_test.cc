// harmonic pack and unpack, as child processes.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/cli_process.h"

namespace harmonic {
namespace {

class Pack : public ::testing::Test {
 protected:
  Pack() : model_(make_model_folder(folder_ / "model", *make_byte_tokenizer(), 3)) {}
  Outcome run(const std::string& command, const std::string& in, const std::string& out,
              const std::string& input = "", const std::string& model = "") const {
    return run_with_input({command, "--model", model.empty() ? model_ : model, "--threads", "1", in, out},
                          input);
  }

  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(Pack, AFileComesBackThroughFilesAndPipes) {
  const std::string text = "Some text, and a byte that is none: \xff" + std::string(1, '\0') + "\n";
  const std::string in = folder_.file("in", text), packed = folder_ / "packed", out = folder_ / "out";
  EXPECT_EQ(run("pack", in, packed).status, 0);
  EXPECT_EQ(run("unpack", packed, out).status, 0);
  EXPECT_EQ(read_file(out), text);
  const Outcome piped = run("pack", "-", "-", text);
  EXPECT_EQ(piped.out, read_file(packed));
  EXPECT_EQ(run("unpack", "-", "-", piped.out).out, text);
}

TEST_F(Pack, WhoMayNotReadTheSourceMayNotReadWhatIsMadeOfIt) {
  const std::string in = folder_.file("in", "a secret"), packed = folder_ / "packed", out = folder_ / "out";
  ::chmod(in.c_str(), 0600);
  ASSERT_EQ(run("pack", in, packed).status, 0);
  ASSERT_EQ(run("unpack", packed, out).status, 0);
  for (const std::string& file : {packed, out}) {
    struct stat found;
    ASSERT_EQ(::stat(file.c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0600u) << file;
  }
}

TEST_F(Pack, WhatCannotBeUnpackedLeavesNoFile) {
  const std::string packed = folder_ / "packed", out = folder_ / "out";
  ASSERT_EQ(run("pack", folder_.file("in", "abcdef"), packed).status, 0);
  const std::string other = make_model_folder(folder_ / "other", *make_byte_tokenizer(), 4);
  const Outcome foreign = run("unpack", packed, out, "", other);
  EXPECT_EQ(foreign.status, 1);
  EXPECT_NE(foreign.err.find("packed with another model"), std::string::npos) << foreign.err;
  folder_.file("packed", read_file(packed).substr(0, 150));
  EXPECT_EQ(run("unpack", packed, out).status, 1);
  EXPECT_EQ(run("unpack", folder_.file("text", "no packed file at all"), out).status, 1);
  EXPECT_EQ(run("pack", folder_ / "missing", out).status, 1);
  EXPECT_FALSE(std::filesystem::exists(out));
}

}  // namespace
}  // namespace harmonic
