#include "harmonic/data/input_files.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

bool hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }
bool has_wildcard(const std::string& text) { return text.find_first_of("*?[") != std::string::npos; }

// The entries of a folder by name, hidden ones left out.
std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  fs::directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    stop_if_interrupted();
    if (!hidden(it->path())) entries.push_back(it->path());
  }
  if (error) fail("{}: cannot list the folder: {}", folder.string(), error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

bool is_folder_to_enter(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(fs::symlink_status(path, error));
}

void walk(const fs::path& folder, std::vector<std::string>& files) {
  for (const fs::path& entry : entries_of(folder)) {
    stop_if_interrupted();
    std::error_code error;
    if (is_folder_to_enter(entry)) {
      walk(entry, files);
    } else if (fs::is_regular_file(entry, error)) {
      files.push_back(entry.string());
    }
  }
}

// Appends what `parts[at...]` match below `base`.
void match(const fs::path& base, const std::vector<std::string>& parts, size_t at,
           std::vector<fs::path>& found) {
  const fs::path folder = base.empty() ? fs::path(".") : base;
  if (at == parts.size()) {
    found.push_back(base);
    return;
  }
  const std::string& part = parts[at];
  std::error_code error;
  if (part == "**") {
    match(base, parts, at + 1, found);
    if (!fs::is_directory(folder, error)) return;
    for (const fs::path& entry : entries_of(folder))
      if (is_folder_to_enter(entry)) match(base / entry.filename(), parts, at, found);
  } else if (fs::exists(base / part, error)) {
    match(base / part, parts, at + 1, found);
  } else if (has_wildcard(part)) {
    if (!fs::is_directory(folder, error)) return;
    for (const fs::path& entry : entries_of(folder))
      if (::fnmatch(part.c_str(), entry.filename().c_str(), FNM_PERIOD) == 0)
        match(base / entry.filename(), parts, at + 1, found);
  }
}

std::vector<std::string> files_of_pattern(const std::string& pattern) {
  const fs::path path(pattern);
  std::vector<std::string> parts;
  for (const fs::path& part : path.relative_path())
    if (!part.empty()) parts.push_back(part.string());
  std::vector<fs::path> found;
  match(path.root_path(), parts, 0, found);
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  std::vector<std::string> files;
  for (const fs::path& one : found) {
    std::error_code error;
    if (fs::is_directory(one, error)) {
      // "**" has already given what lies below; only a last part that is a plain wildcard enters a folder.
      if (parts.back() != "**" || one == found.front()) walk(one, files);
    } else {
      files.push_back(one.string());
    }
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

}  // namespace

std::vector<InputFile> list_input_files(const std::vector<std::string>& inputs) {
  if (inputs.empty())
    fail_usage("no input was named; expected files, folders, patterns or - for standard input");
  std::vector<InputFile> result;
  bool standard_input = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string& input = inputs[i];
    if (input.empty()) fail_usage("input {} is an empty name; expected a file, a folder or a pattern", i + 1);
    std::error_code error;
    if (input == "-") {
      if (standard_input) fail_usage("standard input (-) is named twice; it can be read once");
      standard_input = true;
      result.push_back({input, i, true});
    } else if (fs::is_directory(input, error)) {
      std::vector<std::string> files;
      walk(input, files);
      if (files.empty())
        fail("{}: the folder holds no file to read; put text files there or name another", input);
      for (std::string& file : files) result.push_back({std::move(file), i, false});
    } else if (fs::exists(input, error)) {
      result.push_back({input, i, true});
    } else if (has_wildcard(input)) {
      std::vector<std::string> files = files_of_pattern(input);
      if (files.empty()) fail("{}: no file matches this pattern", input);
      for (std::string& file : files) result.push_back({std::move(file), i, false});
    } else {
      fail("{}: no such file or folder", input);
    }
  }
  return result;
}

}  // namespace harmonic
