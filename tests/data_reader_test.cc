#include <fcntl.h>

#include <set>

#include "harmonic/base/random.h"
#include "harmonic/data/document_reader.h"
#include "harmonic/data/text_file.h"
#include "tests/data_fixture.h"

namespace harmonic {
namespace {

using namespace std::string_literals;
using Documents = std::vector<std::string>;
using ::testing::Test;

class DocumentSourceTest : public DataTest {
 protected:
  // Of at most what a pipe holds, 64 KB.
  static Documents read_through_pipe(const std::string& content) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    EXPECT_EQ(::write(ends[1], content.data(), content.size()), static_cast<ssize_t>(content.size()));
    ::close(ends[1]);
    struct Closing {
      int descriptor;
      ~Closing() { ::close(descriptor); }
    } const closing{ends[0]};
    return read_documents({"/dev/fd/" + std::to_string(ends[0])});
  }
};

struct Packed {
  const char* ending;
  int filter;
};
constexpr Packed kPackings[] = {
    {".gz", ARCHIVE_FILTER_GZIP}, {".xz", ARCHIVE_FILTER_XZ}, {".zst", ARCHIVE_FILTER_ZSTD}};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(DocumentSourceTest, EveryFormatGivesTheSameDocumentsPlainAndCompressed) {
  struct Case {
    std::string name, content;
    DocumentFormat format;
    Documents expected;
  };
  const std::vector<Case> cases = {
      {"plain.txt", "one\n\n\n\ntwo\n", DocumentFormat::automatic, {"one\n\n\n\ntwo\n"}},
      {"nul.txt", "one\n\0two\0\0three"s, DocumentFormat::automatic, {"one\n", "two", "three"}},
      {"kept.txt", "one\0two"s, DocumentFormat::text, {"one\0two"s}},
      {"blank.txt", "\n\na\nb\n\nc\n \t\n\r\n\nd\n\n\n", DocumentFormat::blank_lines, {"a\nb\n\nc\n", "d\n"}},
      {"lines.jsonl",
       "{\"id\":1,\"text\":\"\\u00e9n\"}\r\n\n{\"text\":\"zwei\\n\"}",
       DocumentFormat::automatic,
       {"\xc3\xa9n", "zwei\n"}},
      {"lines.txt", "{\"text\":\"x\"}\n", DocumentFormat::json_lines, {"x"}},
      {"wiki.tokens",
       " \n = A = \n \n one \n \n = = B = = \n \n \n two \n \n = C = \n \n three \n",
       DocumentFormat::wikitext,
       {" \n = A = \n \n one \n \n = = B = = \n \n \n two \n", " \n = C = \n \n three \n"}},
  };
  for (const Case& one : cases) {
    ReaderOptions options;
    options.format = one.format;
    EXPECT_EQ(read_documents({file(one.name, one.content)}, options), one.expected) << one.name;
    for (const Packed& packing : kPackings) {
      const std::string packed = compressed(one.name + packing.ending, packing.filter, one.content);
      EXPECT_EQ(read_documents({packed}, options), one.expected) << packed;
    }
    const std::string zip =
        zipped(one.name + ".zip", {{one.name, one.content}, {"b/" + one.name, one.content}});
    Documents twice = one.expected;
    twice.insert(twice.end(), one.expected.begin(), one.expected.end());
    EXPECT_EQ(read_documents({zip}, options), twice) << zip;
  }
}

TEST_F(DocumentSourceTest, DocumentsLongerThanEveryBufferComeThroughWhole) {
  std::string first, second;
  const Random random(1, 2);
  for (uint64_t i = 0; i < 700'000; ++i) first += static_cast<char>('a' + random.below(i, 26));
  for (uint64_t i = 0; i < 300'000; ++i) second += static_cast<char>('A' + random.below(i, 26));
  const std::string content = first + '\0' + second + '\0';
  const Documents expected = {first, second};
  EXPECT_EQ(read_documents({file("plain", content)}), expected);
  for (const Packed& packing : kPackings)
    EXPECT_EQ(read_documents({compressed("packed"s + packing.ending, packing.filter, content)}), expected);
  EXPECT_EQ(read_documents({zipped("packed.zip", {{"a", content}})}), expected);
}

TEST_F(DocumentSourceTest, CompressionIsToldByTheContentWhateverTheName) {
  EXPECT_EQ(read_documents({compressed("no-ending", ARCHIVE_FILTER_ZSTD, "text")}), Documents{"text"});
}

TEST_F(DocumentSourceTest, FoldersAreReadToTheirDepthInTheOrderOfNames) {
  file("corpus/b.txt", "3");
  file("corpus/a/z.txt", "2");
  file("corpus/a/y/q.txt", "1");
  file("corpus/c.txt", "4");
  file("corpus/.hidden", "no");
  file("corpus/empty.txt", "");
  std::filesystem::create_directory_symlink(folder_, folder_ / "corpus" / "loop");
  EXPECT_EQ(read_documents({path("corpus")}), (Documents{"1", "2", "3", "4"}));
  EXPECT_EQ(read_documents({path("corpus/c.txt"), path("corpus/a")}), (Documents{"4", "1", "2"}));
}

TEST_F(DocumentSourceTest, PatternsMatchNamesAndDoubleStarsMatchFolders) {
  file("c/one.txt", "1");
  file("c/two.txt", "2");
  file("c/three.md", "3");
  file("c/d/e/four.txt", "4");
  file("c/[odd].txt", "odd");
  EXPECT_EQ(read_documents({path("c/t*.txt")}), Documents{"2"});
  EXPECT_EQ(read_documents({path("c/[ot]*.[tm][xd]*")}), (Documents{"1", "3", "2"}));
  EXPECT_EQ(read_documents({path("c/**/*o*r.txt")}), Documents{"4"});
  EXPECT_EQ(read_documents({path("c/**/[ot]*.txt")}), (Documents{"1", "2"}));
  EXPECT_EQ(read_documents({path("c/d*")}), Documents{"4"});
  EXPECT_EQ(read_documents({path("c/[odd].txt")}), Documents{"odd"}) << "a path that exists is no pattern";
  file("[d]/1.txt", "within");
  EXPECT_EQ(read_documents({path("[d]/*.txt")}), Documents{"within"}) << "nor is a folder in front of one";
}

TEST_F(DocumentSourceTest, StandardInputIsReadPlainAndCompressed) {
  const std::string zip = zipped("s.zip", {{"a", "one"}, {"b", "two"}});
  const std::string gz = compressed("s.gz", ARCHIVE_FILTER_GZIP, "one\0two"s);
  for (const std::string& source : {file("s", "one\0two"s), gz, zip}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const std::string content = read_file(source);
    ASSERT_EQ(::write(ends[1], content.data(), content.size()), static_cast<ssize_t>(content.size()));
    ::close(ends[1]);
    const int saved = ::dup(STDIN_FILENO);
    ::dup2(ends[0], STDIN_FILENO);
    EXPECT_EQ(read_documents({"-"}), (Documents{"one", "two"})) << source;
    ::dup2(saved, STDIN_FILENO);
    ::close(saved);
    ::close(ends[0]);
  }
  EXPECT_TRUE(contains(error_of([] { read_documents({"-", "-"}); }), "twice"));
}

TEST_F(DocumentSourceTest, WhatIsMissingOrEmptyIsAnErrorThatNamesIt) {
  const auto message = [&](const std::string& input) { return error_of([&] { read_documents({input}); }); };
  EXPECT_TRUE(contains(message(path("nowhere.txt")), "nowhere.txt: no such file"));
  EXPECT_TRUE(contains(message(path("*.none")), "no file matches"));
  EXPECT_TRUE(contains(message(file("empty.txt", "")), "empty.txt: holds no text"));
  EXPECT_TRUE(contains(message(file("nuls.txt", "\0\0\0"s)), "nuls.txt: holds no text"));
  EXPECT_TRUE(contains(message(compressed("empty.gz", ARCHIVE_FILTER_GZIP, "")), "empty.gz: holds no text"));
  std::filesystem::create_directory(path("bare"));
  EXPECT_TRUE(contains(message(path("bare")), "bare: the folder holds no file"));
  file("hollow/empty.txt", "");
  EXPECT_TRUE(contains(message(path("hollow")), "hollow: holds no text"));
  EXPECT_TRUE(contains(error_of([] { read_documents({}); }), "no input"));
  const std::string good = file("good.txt", "good");
  EXPECT_TRUE(contains(error_of([&] { read_documents({path("empty.txt"), good}); }), "empty.txt"));
}

TEST_F(DocumentSourceTest, ATruncatedArchiveIsAnErrorWhereverItIsCut) {
  std::string text;
  for (uint64_t i = 0; i < 20'000; ++i) text += static_cast<char>('a' + Random(3, 3).below(i, 26));
  std::vector<std::string> files;
  for (const Packed& packing : kPackings)
    files.push_back(compressed("t"s + packing.ending, packing.filter, text));
  files.push_back(zipped("t.zip", {{"a", text}}));
  for (const std::string& whole : files) {
    const std::string content = read_file(whole);
    for (size_t keep : {size_t{3}, size_t{12}, content.size() / 2, content.size() * 9 / 10}) {
      const std::string cut =
          file("cut" + std::filesystem::path(whole).extension().string(), content.substr(0, keep));
      const std::string message = error_of([&] { read_documents({cut}); });
      EXPECT_TRUE(contains(message, cut)) << whole << " cut to " << keep << ": " << message;
    }
  }
}

TEST_F(DocumentSourceTest, ADamagedZipMemberIsAnError) {
  std::string text;
  for (uint64_t i = 0; i < 5000; ++i) text += static_cast<char>('a' + Random(3, 3).below(i, 26));
  std::string content = read_file(zipped("z.zip", {{"a", text}}));
  content[content.size() / 2] = static_cast<char>(content[content.size() / 2] ^ 0x10);
  EXPECT_TRUE(contains(error_of([&] { read_documents({file("z.zip", content)}); }), "z.zip: a: damaged"));
}

TEST_F(DocumentSourceTest, ADamagedByteOfACompressedFileIsAnErrorWhereverItStands) {
  std::string text;
  for (uint64_t i = 0; i < 3000; ++i) text += static_cast<char>('a' + Random(3, 3).below(i, 26));
  for (const Packed& packing : kPackings) {
    if (packing.filter == ARCHIVE_FILTER_ZSTD) continue;  // libarchive writes it without a checksum
    const std::string content = read_file(compressed("d"s + packing.ending, packing.filter, text));
    EXPECT_EQ(read_through_pipe(content), Documents{text});
    for (size_t at = 20; at < content.size(); at += at < content.size() - 45 ? 37 : 1) {
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      const std::string name = file("damaged"s + packing.ending, damaged);
      EXPECT_THROW(read_documents({name}), Error) << packing.ending << " byte " << at;
      EXPECT_THROW(read_through_pipe(damaged), Error)
          << packing.ending << " byte " << at << " through a pipe";
    }
  }
}

// The trailer too, which unpacking does not need: what it would have told is missing.
TEST_F(DocumentSourceTest, AGzipFileCutShortIsAnErrorWhereverItIsCutThroughAPipeToo) {
  const std::string content = read_file(compressed("c.gz", ARCHIVE_FILTER_GZIP, "one text\n"));
  ASSERT_EQ(read_through_pipe(content), Documents{"one text\n"});
  for (size_t size = 2; size < content.size(); ++size) {
    const std::string cut = content.substr(0, size);
    EXPECT_TRUE(contains(error_of([&] { read_documents({file("cut.gz", cut)}); }), "cut.gz: damaged"))
        << size;
    EXPECT_TRUE(contains(error_of([&] { read_through_pipe(cut); }), "damaged")) << size;
  }
}

TEST_F(DocumentSourceTest, GzipFilesOfSeveralPartsAreReadWhole) {
  // The second part's header comes to lie across the border of two 64 KB blocks in every way.
  std::string text;
  for (uint64_t i = 0; i < 150'000; ++i) text += static_cast<char>('a' + Random(3, 3).below(i, 26));
  const auto packed = [&](size_t size) {
    return read_file(compressed("a.gz", ARCHIVE_FILTER_GZIP, text.substr(0, size)));
  };
  const std::string second = read_file(compressed("b.gz", ARCHIVE_FILTER_GZIP, "and two"));
  size_t size = 0;
  for (size_t step = 1 << 16; step > 0; step /= 2)
    if (packed(size + step).size() < 65'530) size += step;
  std::set<size_t> places;
  for (std::string first; (first = packed(size)).size() < 65'542; ++size) {
    places.insert(first.size());
    EXPECT_EQ(read_documents({file("both.gz", first + second)}), Documents{text.substr(0, size) + "and two"})
        << first.size();
  }
  EXPECT_GE(places.size(), 10u);
}

TEST_F(DocumentSourceTest, ABadJsonLineIsNamedByItsNumber) {
  const auto message = [&](const std::string& line) {
    return error_of([&] { read_documents({file("x.jsonl", "{\"text\":\"a\"}\n\n" + line + "\n")}); });
  };
  EXPECT_TRUE(contains(message("{\"text\":"), "x.jsonl: line 3: not valid JSON"));
  EXPECT_TRUE(contains(message("{\"text\":\"\xff\"}"), "line 3: not valid JSON"));
  EXPECT_TRUE(contains(message("{\"body\":\"a\"}"), "line 3: the object has no field \"text\""));
  EXPECT_TRUE(contains(message("{\"text\":7}"), "line 3: field \"text\" is number"));
  EXPECT_TRUE(contains(message("[1]"), "line 3: expected a JSON object"));
  EXPECT_TRUE(contains(message(std::string(100'000, '[')), "nested deeper"));
  ReaderOptions body;
  body.json_field = "body";
  EXPECT_EQ(read_documents({file("y.jsonl", "{\"body\":\"b\"}\n")}, body), Documents{"b"});
}

TEST_F(DocumentSourceTest, ABinaryFileIsRefusedWhenNamedAndPassedOverInAFolder) {
  std::string noise;
  for (uint64_t i = 0; i < 4096; ++i) noise += static_cast<char>(Random(5, 5).below(i, 256));
  const std::string binary = file("mixed/a.bin", noise);
  file("mixed/b.txt", "text");
  std::string utf16;
  for (char c : std::string(400, 'q')) utf16 += {c, '\0'};
  EXPECT_TRUE(contains(error_of([&] { read_documents({binary}); }), "a.bin: looks like a binary file"));
  EXPECT_TRUE(
      contains(error_of([&] { read_documents({file("u.txt", utf16)}); }), "looks like a binary file"));
  EXPECT_EQ(read_documents({path("mixed")}), Documents{"text"});
  ReaderOptions anything;
  anything.format = DocumentFormat::text;
  EXPECT_EQ(read_documents({binary}, anything), Documents{noise});
}

TEST_F(DocumentSourceTest, TextThatIsNotUtf8ComesThroughUnchanged) {
  std::string latin;
  for (int i = 0; i < 2000; ++i) latin += static_cast<char>(0x80 + i % 128);
  EXPECT_EQ(read_documents({file("latin.txt", latin)}), Documents{latin});
}

TEST_F(DocumentSourceTest, ADocumentBeyondTheLimitIsAnError) {
  ReaderOptions options;
  options.max_document_bytes = 10;
  const std::string fits = file("fits", "0123456789\0abc"s), over = file("over", "0123456789a\0abc"s);
  EXPECT_EQ(read_documents({fits}, options).size(), 2u);
  EXPECT_TRUE(contains(error_of([&] { read_documents({over}, options); }), "longer than 10 bytes"));
}

TEST_F(DocumentSourceTest, AWronglyNamedCompressedFileIsAnError) {
  EXPECT_TRUE(
      contains(error_of([&] { read_documents({file("t.gz", "plain text")}); }), "does not begin like"));
}

TEST_F(DocumentSourceTest, AnArticleBeginsAtATitleBetweenBlankLinesOnly) {
  ReaderOptions options;
  options.format = DocumentFormat::wikitext;
  const auto articles = [&](std::string_view content) {
    return read_documents({file("wiki", content)}, options);
  };
  EXPECT_EQ(articles("= A =\n\none\n"), (Documents{"= A =\n\none\n"})) << "at the very start";
  EXPECT_EQ(articles(" \n \n\n = A = \n \n one"), (Documents{" \n \n\n = A = \n \n one"}));
  EXPECT_EQ(articles("before\n\n = A = \n\none"), (Documents{"before\n", "\n = A = \n\none"}));
  for (const std::string same :
       {" x \n = 1 rad / s = \n \n y \n", " \n = 1 rad / s = \n y \n", " \n = = S = = \n \n", " \n = = \n \n",
        " \n = A = ", "\n = A = \n = B = \n\n", "no title at all"})
    EXPECT_EQ(articles(" = A = \n \n" + same), (Documents{" = A = \n \n" + same})) << same;
  EXPECT_TRUE(contains(error_of([&] { articles(" \n \n"); }), "holds no text"));
}

TEST_F(DocumentSourceTest, EachBookOfAFolderIsADocument) {
  file("books/train/11.txt", "ALICE\n\n\n\nDown the hole.\n");
  file("books/train/2.txt", "\n\nSECOND\n");
  file("books/valid/3.txt", "other");
  EXPECT_EQ(read_documents({path("books/train")}),
            (Documents{"ALICE\n\n\n\nDown the hole.\n", "\n\nSECOND\n"}));
}

TEST(DocumentFormat, NamesAreReadBackAndUnknownOnesAreUsageErrors) {
  for (DocumentFormat format :
       {DocumentFormat::automatic, DocumentFormat::text, DocumentFormat::nul, DocumentFormat::blank_lines,
        DocumentFormat::json_lines, DocumentFormat::wikitext, DocumentFormat::shards})
    EXPECT_EQ(document_format_of(name_of(format)), format);
  for (const std::string& name : document_format_names()) EXPECT_EQ(name_of(document_format_of(name)), name);
  EXPECT_THROW(document_format_of("xml"), Error);
}

TEST(DocumentSourceOnRealData, WikipediaValidHasThePublishedNumberOfArticlesAndBytes) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (!data) GTEST_SKIP() << "HARMONIC_DATA is not set";
  const Documents documents = read_documents({std::string(data) + "/wikipedia/enwiki_plain_valid.txt.xz"});
  size_t bytes = documents.size();
  for (const std::string& document : documents) bytes += document.size();
  EXPECT_EQ(documents.size(), 948u);
  EXPECT_EQ(bytes, 2500758u);
}

// 60 articles each, says the paper (Merity et al. 2016).
TEST(DocumentSourceOnRealData, WikiTextHasThePublishedNumberOfArticlesAndEveryByte) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (!data) GTEST_SKIP() << "HARMONIC_DATA is not set";
  ReaderOptions options;
  options.format = DocumentFormat::wikitext;
  for (const char* name : {"wikitext.wiki.test.raw.xz", "wikitext.wiki.valid.raw.xz",
                           "wikitext103.wiki.test.tokens.xz", "wikitext103.wiki.valid.tokens.xz"}) {
    const std::string input = std::string(data) + "/wikitext/" + name;
    const Documents articles = read_documents({input}, options);
    EXPECT_EQ(articles.size(), 60u) << name;
    std::string all;
    for (const std::string& article : articles) all += article;
    EXPECT_EQ(all, read_text(input)) << name;
  }
}

TEST(DocumentSourceOnRealData, FineWebEduIsReadAsJsonLines) {
  const char* data = std::getenv("HARMONIC_DATA");
  if (!data) GTEST_SKIP() << "HARMONIC_DATA is not set";
  const Documents documents = read_documents({std::string(data) + "/fineweb_edu"});
  ASSERT_EQ(documents.size(), 5u);
  EXPECT_TRUE(documents[0].starts_with("Lord British was killed during an in-game appearance"));
}

}  // namespace
}  // namespace harmonic
