#include "harmonic/base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "harmonic-files-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    fs::permissions(folder_, fs::perms::owner_all);
    fs::remove_all(folder_);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : fs::directory_iterator(folder_)) result.push_back(entry.path().filename());
    std::sort(result.begin(), result.end());
    return result;
  }

  fs::path folder_;
};

// The message of the Error that `call` throws; it must name the path.
template <typename Call>
std::string error_naming(const fs::path& path, Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error about " << path;
  return {};
}

void expect_all_readers_fail(const fs::path& path, std::string_view reason) {
  for (const std::string& message :
       {error_naming(path, [&] { read_file(path); }), error_naming(path, [&] { sha256_of_file(path); }),
        error_naming(path, [&] { MappedFile file(path); })})
    EXPECT_NE(message.find(reason), std::string::npos) << message;
}

TEST_F(Files, ReadingGivesBackWhatWasWritten) {
  const fs::path path = folder_ / "a";
  std::string bytes;
  for (int i = 0; i < 200'000; ++i) bytes += static_cast<char>(i * 7);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{65536}, bytes.size()}) {
    write_file(path, bytes.substr(0, size));
    EXPECT_EQ(read_file(path), bytes.substr(0, size));
    EXPECT_EQ(sha256_of_file(path), sha256(bytes.substr(0, size)));
    const MappedFile mapped(path);
    EXPECT_TRUE(std::equal(mapped.bytes().begin(), mapped.bytes().end(), bytes.begin(),
                           bytes.begin() + static_cast<std::ptrdiff_t>(size),
                           [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); }));
    EXPECT_EQ(names(), std::vector<std::string>{"a"});
  }
}

TEST_F(Files, ShaIsTheStandards) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(Files, MissingFilesAndFoldersInTheirPlaceAreErrorsWithTheName) {
  expect_all_readers_fail(folder_ / "nothing", "No such file");
  expect_all_readers_fail(folder_ / "nothing" / "at all", "No such file");
  expect_all_readers_fail(folder_, "is a directory");
  write_file(folder_ / "file", "x");
  expect_all_readers_fail(folder_ / "file" / "below", "Not a directory");
}

TEST_F(Files, UnreadableFilesAreErrorsWithTheName) {
  const fs::path secret = folder_ / "secret";
  write_file(secret, "x");
  fs::permissions(secret, fs::perms::none);
  fs::permissions(folder_, fs::perms::owner_all | fs::perms::group_exec | fs::perms::others_exec);
  // In a child that may give up the superuser's right to read everything.
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::seteuid(65534) != 0) ::_exit(1);
    expect_all_readers_fail(secret, "Permission denied");
    ::_exit(HasFailure() ? 2 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(Files, AFileLargerThanTheLimitIsAnError) {
  write_file(folder_ / "a", "12345");
  EXPECT_EQ(read_file(folder_ / "a", 5), "12345");
  error_naming(folder_ / "a", [&] { read_file(folder_ / "a", 4); });
  error_naming("/dev/zero", [&] { read_file("/dev/zero", 1000); });  // its size is said to be 0
}

TEST_F(Files, AnAtomicFileIsNotSeenBeforeCommitAndLeavesNothingWithoutIt) {
  write_file(folder_ / "a", "old");
  {
    AtomicFile file(folder_ / "a");
    file.write("new");
    EXPECT_EQ(read_file(folder_ / "a"), "old");
  }
  EXPECT_EQ(read_file(folder_ / "a"), "old");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, AnAtomicFileCannotTakeTheNameOfAFolderOrGoWhereThereIsNone) {
  fs::create_directory(folder_ / "b");
  error_naming(folder_ / "b", [&] { write_file(folder_ / "b", "x"); });
  const std::string message =
      error_naming(folder_ / "c" / "d", [&] { write_file(folder_ / "c" / "d", "x"); });
  EXPECT_NE(message.find("there is no folder " + (folder_ / "c").string()), std::string::npos) << message;
  EXPECT_EQ(message.find(".tmp"), std::string::npos) << message;
  EXPECT_NE(error_naming("/proc/d", [] { write_file("/proc/d", "x"); }).find("into the folder /proc: "),
            std::string::npos);
  EXPECT_EQ(names(), std::vector<std::string>{"b"});
}

TEST_F(Files, AFullDiskLeavesTheOldFileAndNoOther) {
  write_file(folder_ / "a", "old");
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      AtomicFile file(folder_ / "a");
      for (int i = 0; i < 100; ++i) file.write(std::string(10'000, 'n'));
      file.commit();
    } catch (const Error& error) {
      const std::string message = error.what();
      ::_exit(message.find(folder_ / "a") != std::string::npos && message.find('\n') == std::string::npos &&
                      message.find("untouched") != std::string::npos
                  ? 7
                  : 8);
    }
    ::_exit(9);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(read_file(folder_ / "a"), "old");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, AFailedRenameLeavesNothingBehind) {
  AtomicFile file(folder_ / "a");
  file.write("x");
  fs::create_directory(folder_ / "a");
  error_naming(folder_ / "a", [&] { file.commit(); });
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

TEST_F(Files, LinksStayAndTheFileTheyPointToIsWritten) {
  fs::create_directory(folder_ / "elsewhere");
  write_file(folder_ / "elsewhere" / "real", "old");
  fs::create_symlink("real", folder_ / "elsewhere" / "near");
  fs::create_symlink("elsewhere/near", folder_ / "relative");
  fs::create_symlink(folder_ / "elsewhere" / "missing", folder_ / "dangling");
  write_file(folder_ / "relative", "new");
  write_file(folder_ / "dangling", "made");
  EXPECT_TRUE(fs::is_symlink(folder_ / "relative"));
  EXPECT_TRUE(fs::is_symlink(folder_ / "elsewhere" / "near"));
  EXPECT_FALSE(fs::is_symlink(folder_ / "elsewhere" / "real"));
  EXPECT_EQ(read_file(folder_ / "elsewhere" / "real"), "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "dangling"));
  EXPECT_EQ(read_file(folder_ / "elsewhere" / "missing"), "made");
  EXPECT_EQ(names(), (std::vector<std::string>{"dangling", "elsewhere", "relative"}));
}

TEST_F(Files, LinksThatLeadNowhereAreErrorsWithTheName) {
  fs::create_symlink("b", folder_ / "a");
  fs::create_symlink("a", folder_ / "b");
  error_naming(folder_ / "a", [&] { write_file(folder_ / "a", "x"); });
  fs::create_symlink("no folder/file", folder_ / "c");
  error_naming(folder_ / "no folder" / "file", [&] { write_file(folder_ / "c", "x"); });
  EXPECT_EQ(names(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(Files, APipeIsWrittenStraightThroughAndOpenedOnlyThen) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  { const AtomicFile probe(pipe); }  // without a reader this would wait for ever, had it opened the pipe
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  write_file(pipe, "content");
  char found[16] = {};
  EXPECT_EQ(::read(reader, found, sizeof found - 1), 7);
  EXPECT_STREQ(found, "content");
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(pipe));
  EXPECT_EQ(names(), std::vector<std::string>{"pipe"});
}

TEST_F(Files, ADeviceIsWrittenStraightThrough) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0 || ::grantpt(terminal) != 0 || ::unlockpt(terminal) != 0) GTEST_SKIP() << "no terminals";
  fs::create_symlink(::ptsname(terminal), folder_ / "device");
  // Held open: what was written is lost when the last one closes it.
  const int held = ::open((folder_ / "device").c_str(), O_RDWR | O_NOCTTY);
  write_file(folder_ / "device", "content");
  ::fcntl(terminal, F_SETFL, O_NONBLOCK);
  char found[16] = {};
  EXPECT_EQ(::read(terminal, found, sizeof found - 1), 7);
  EXPECT_STREQ(found, "content");
  EXPECT_TRUE(fs::is_symlink(folder_ / "device"));
  EXPECT_TRUE(fs::is_character_file(folder_ / "device"));
  ::close(held);
  ::close(terminal);
}

// Runs `body` in a child whose standard output is this descriptor.
template <typename Body>
void with_standard_output(int descriptor, Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(descriptor, STDOUT_FILENO);
    try {
      body();
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

// By a name below /proc, which stays what it is even where AtomicFile does not do what it should.
TEST_F(Files, WhatStandardOutputGoesToIsGoneOnWithUnderAnyName) {
  for (const std::string& name : {std::string("/proc/self/fd/1"), (folder_ / "a").string()}) {
    const int file = ::open((folder_ / "a").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    with_standard_output(file, [&] {
      if (::write(STDOUT_FILENO, "before, ", 8) != 8) ::_exit(2);
      write_file(name, "within, ");
      if (::write(STDOUT_FILENO, "after", 5) != 5) ::_exit(2);
    });
    ::close(file);
    EXPECT_EQ(read_file(folder_ / "a"), "before, within, after") << name;
    EXPECT_EQ(names(), std::vector<std::string>{"a"});
  }
}

TEST_F(Files, ASocketThatIsStandardOutputIsWrittenStraightThrough) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  with_standard_output(ends[1], [] { write_file("/proc/self/fd/1", "content"); });
  char found[16] = {};
  EXPECT_EQ(::recv(ends[0], found, sizeof found - 1, MSG_DONTWAIT), 7);
  EXPECT_STREQ(found, "content");
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(Files, FoldersAreMadeWithTheirParents) {
  make_folder(folder_ / "a" / "b");
  make_folder(folder_ / "a" / "b");
  EXPECT_TRUE(fs::is_directory(folder_ / "a" / "b"));
  write_file(folder_ / "file", "x");
  error_naming(folder_ / "file", [&] { make_folder(folder_ / "file"); });
  error_naming(folder_ / "file" / "c", [&] { make_folder(folder_ / "file" / "c"); });
}

TEST_F(Files, AMapOutlivesItsNameAndCanBeMoved) {
  write_file(folder_ / "a", "content");
  MappedFile mapped(folder_ / "a");
  fs::remove(folder_ / "a");
  MappedFile moved;
  moved = std::move(mapped);
  EXPECT_EQ(std::string(moved.bytes().begin(), moved.bytes().end()), "content");
  EXPECT_TRUE(mapped.bytes().empty());
}

TEST_F(Files, AnAppendedFileGrowsFromWhatItHad) {
  const fs::path name = folder_ / "grows";
  for (const char* piece : {"one ", "two"}) AppendFile(name).append(piece);
  EXPECT_EQ(read_file(name), "one two");
  EXPECT_THROW(AppendFile(folder_ / "no such folder" / "file"), Error);
  EXPECT_THROW(AppendFile("/dev/full").append("x"), Error);
}

TEST_F(Files, AMapHasTheSameBytesAfterAPartWasReleased) {
  std::string contents;
  for (int i = 0; i < 20000; ++i) contents += static_cast<char>('a' + i % 23);
  write_file(folder_ / "mapped", contents);
  const MappedFile file(folder_ / "mapped");
  const auto text = [&] {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  EXPECT_EQ(text(), contents);
  file.release(file.bytes().subspan(100, 15000));
  file.release(file.bytes().subspan(5, 3));
  file.release({});
  EXPECT_EQ(text(), contents);
}

}  // namespace
}  // namespace harmonic
