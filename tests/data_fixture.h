// What the data tests share: a scratch folder, a tiny tokenizer, files made through libarchive.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/data/document_reader.h"
#include "harmonic/tokenizer/tokenizer.h"

namespace harmonic {

// A folder of its own for each test, gone afterwards.
class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "harmonic-data-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string file(const std::string& name, std::string_view content) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    write_file(path(name), content);
    return path(name);
  }
  // `filter`: ARCHIVE_FILTER_GZIP and the like.
  std::string compressed(const std::string& name, int filter, std::string_view content) const {
    archive* out = archive_write_new();
    EXPECT_EQ(archive_write_add_filter(out, filter), ARCHIVE_OK);
    EXPECT_EQ(archive_write_set_format_raw(out), ARCHIVE_OK);
    write_archive(out, name, {{"data", std::string(content)}});
    return path(name);
  }
  std::string zipped(const std::string& name,
                     const std::vector<std::pair<std::string, std::string>>& members) const {
    archive* out = archive_write_new();
    EXPECT_EQ(archive_write_set_format_zip(out), ARCHIVE_OK);
    write_archive(out, name, members);
    return path(name);
  }

  std::filesystem::path folder_;

 private:
  void write_archive(archive* out, const std::string& name,
                     const std::vector<std::pair<std::string, std::string>>& members) const {
    EXPECT_EQ(archive_write_open_filename(out, path(name).c_str()), ARCHIVE_OK);
    for (const auto& [member, content] : members) {
      archive_entry* entry = archive_entry_new();
      archive_entry_set_pathname(entry, member.c_str());
      archive_entry_set_filetype(entry, AE_IFREG);
      archive_entry_set_perm(entry, 0644);
      archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
      EXPECT_EQ(archive_write_header(out, entry), ARCHIVE_OK);
      EXPECT_EQ(archive_write_data(out, content.data(), content.size()),
                static_cast<la_ssize_t>(content.size()));
      archive_entry_free(entry);
    }
    EXPECT_EQ(archive_write_close(out), ARCHIVE_OK);
    archive_write_free(out);
  }
};

inline std::vector<std::string> read_documents(const std::vector<std::string>& inputs,
                                               ReaderOptions options = {}) {
  DocumentSource source(inputs, options);
  std::vector<std::string> documents;
  for (std::string document; source.next(document);) documents.push_back(document);
  return documents;
}

// The message of the Error that `call` throws; empty, and a failure, when it throws none.
template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

// Byte b is token b + 1 (times `spread`), and 0 is the end of text: a tokenizer with nothing behind it.
class TinyTokenizer : public Tokenizer {
 public:
  explicit TinyTokenizer(int32_t spread = 1, char mark = 'a') : spread_(spread), hash_(64, mark) {}
  int64_t vocab_size() const override { return 256 * spread_ + 1; }
  int32_t eot() const override { return 0; }
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<int32_t>& tokens) const override {
    for (unsigned char byte : text) tokens.push_back((byte + 1) * spread_);
  }
  std::string_view bytes_of(int32_t) const override { return {}; }
  std::string hash() const override { return hash_; }
  std::string to_json() const override { return "{}"; }

 private:
  int32_t spread_;
  std::string hash_;
};

}  // namespace harmonic
