// The folders form layers: each may include only what stands before it.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "harmonic/base/files.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kLayers = {"base",      "tensor",     "ops",   "autograd", "model",
                                          "tokenizer", "data",       "eval",  "train",    "convert",
                                          "runtime",   "experiment", "bench", "server",   "cli"};

size_t layer_of(const std::string& folder) {
  return static_cast<size_t>(std::find(kLayers.begin(), kLayers.end(), folder) - kLayers.begin());
}

// "file:line: text" for each include in a source of `folder` that reaches up, or to no folder that is known.
std::vector<std::string> offending_lines(const std::string& folder, const std::string& name,
                                         const std::string& source) {
  std::vector<std::string> offending;
  size_t number = 0;
  for (size_t begin = 0; begin < source.size();) {
    const size_t end = std::min(source.find('\n', begin), source.size());
    const std::string line = source.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    const size_t hash = line.find_first_not_of(' ');
    if (hash == std::string::npos || !line.substr(hash).starts_with("#include \"")) continue;
    const size_t path = line.find('"') + 1;
    const std::string included = line.substr(path, line.find('"', path) - path);
    const size_t slash = included.find('/'), second = included.find('/', slash + 1);
    const bool allowed = included.starts_with("harmonic/") && second != std::string::npos &&
                         layer_of(included.substr(slash + 1, second - slash - 1)) <=
                             std::min(layer_of(folder), kLayers.size() - 1);
    if (!allowed) offending.push_back(name + ":" + std::to_string(number) + ": " + line);
  }
  return offending;
}

TEST(Folders, NoFileIncludesAFolderThatStandsAboveItsOwn) {
  const fs::path root = fs::path(HARMONIC_SOURCE_DIR) / "harmonic";
  int files = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension();
    if (!entry.is_regular_file() || (extension != ".h" && extension != ".cc" && extension != ".cu")) continue;
    ++files;
    const std::string name = fs::relative(entry.path(), root.parent_path());
    const std::string folder = *std::next(fs::relative(entry.path(), root.parent_path()).begin());
    for (const std::string& line : offending_lines(folder, name, read_file(entry.path())))
      ADD_FAILURE() << line;
  }
  EXPECT_GT(files, 100) << "too few sources found under " << root;
}

TEST(Folders, EveryFolderOfTheProgramHasItsPlaceInTheOrder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(HARMONIC_SOURCE_DIR) / "harmonic"))
    EXPECT_LT(layer_of(entry.path().filename()), kLayers.size()) << entry.path();
}

TEST(Folders, AnIncludeThatReachesUpIsFound) {
  const std::string source =
      "#include <vector>\n#include \"harmonic/base/error.h\"\n  #include \"harmonic/model/model.h\"\n";
  EXPECT_EQ(offending_lines("model", "a.cc", source).size(), 0u);
  EXPECT_EQ(offending_lines("tensor", "a.cc", source),
            std::vector<std::string>{"a.cc:3:   #include \"harmonic/model/model.h\""});
  EXPECT_EQ(offending_lines("base", "a.cc", "#include \"harmonic/surprise/x.h\"\n").size(), 1u);
}

}  // namespace
}  // namespace harmonic
