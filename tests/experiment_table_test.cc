// experiments/README.md says of every experiment how it is run and where its figures are.
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

#include "harmonic/base/files.h"

namespace harmonic {
namespace {
namespace fs = std::filesystem;

class TableOfExperiments : public testing::Test {
 protected:
  const fs::path folder_ = fs::path(HARMONIC_SOURCE_DIR) / "experiments";
  const std::string readme_ = read_file(folder_ / "README.md");
};

TEST_F(TableOfExperiments, NamesEveryPlanAndConfig) {
  for (const auto& entry : fs::directory_iterator(folder_ / "plans")) {
    if (entry.path().extension() != ".toml") continue;
    const std::string name = entry.path().stem().string();
    EXPECT_NE(readme_.find("harmonic experiment " + name + " "), std::string::npos) << name;
  }
  std::string told = readme_;
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().extension() == ".sh") {
      const std::string name = entry.path().filename().string();
      EXPECT_NE(readme_.find(name), std::string::npos) << name;
      told += read_file(entry.path());
    }
  for (const auto& entry : fs::directory_iterator(folder_ / "configs")) {
    const std::string name = entry.path().stem().string(), tail = name.substr(name.find('-') + 1);
    EXPECT_TRUE(told.find(name) != std::string::npos || told.find(tail) != std::string::npos) << name;
  }
}

TEST_F(TableOfExperiments, LinksToWhatIsThere) {
  const std::regex link(R"(\]\(([^)#]+))");
  int64_t links = 0;
  for (std::sregex_iterator i(readme_.begin(), readme_.end(), link), end; i != end; ++i) {
    ++links;
    EXPECT_TRUE(fs::exists(folder_ / (*i)[1].str())) << (*i)[1];
  }
  EXPECT_GE(links, 4);
}

// What is done has a result, and what has none is not called done.
TEST_F(TableOfExperiments, SaysDoneOnlyOfWhatHasAResult) {
  const std::regex row(R"(\n\|([^|]*)\|(.*)\|([^|]*)\|([^|]*)\|(?=\n))");
  int64_t rows = 0;
  for (std::sregex_iterator i(readme_.begin(), readme_.end(), row), end; i != end; ++i) {
    const bool has_result = (*i)[3].str().find("](results/") != std::string::npos;
    const bool done = (*i)[4].str().find("done") != std::string::npos;
    EXPECT_EQ(done, has_result) << (*i)[1];
    ++rows;
  }
  EXPECT_GE(rows, 12);  // the head and its line among them
}

}  // namespace
}  // namespace harmonic
