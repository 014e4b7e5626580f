#include "harmonic/data/download.h"

#include <algorithm>
#include <chrono>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/log.h"
#include "harmonic/base/process.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

// Of curl, see its manual.
constexpr int kNoRanges = 33, kPartial = 18, kTimeout = 28, kReceiveFailed = 56;

bool stands_there(const fs::path& path) {
  std::error_code error;
  const bool found = fs::exists(path, error);
  if (error) fail("{}: cannot look for it: {}", path.string(), error.message());
  return found;
}

int64_t size_of(const fs::path& path) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  return error ? 0 : static_cast<int64_t>(size);
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) fail("{}: cannot remove: {}", path.string(), error.message());
}

class Transfer {
 public:
  explicit Transfer(const Download& wanted) : wanted_(wanted), part_(wanted.target.string() + ".part") {}

  // Until the part is as long as the file should be. Returns why this address does not give it, or nothing.
  std::string from(const std::string& address) {
    address_ = address;
    bool ranges = true;  // the server can go on in the middle, as far as is known
    if (size_of(part_) > wanted_.bytes) remove_file(part_);
    while (size_of(part_) != wanted_.bytes) {
      const int64_t before = size_of(part_);
      const ProcessOutcome outcome = run_curl();
      end_progress();
      const int64_t now = size_of(part_);
      const bool broken_off =
          outcome.status == kPartial || outcome.status == kTimeout || outcome.status == kReceiveFailed;
      if (outcome.status == kNoRanges && before > 0) {
        log("{}: the server cannot go on in the middle; from the start", address);
        remove_file(part_);
        ranges = false;
      } else if (broken_off && now > before && ranges) {
        log("{}: broken off after {} of {} bytes; going on", address, now, wanted_.bytes);
      } else if (outcome.status != 0) {
        return fmt::format(
            "{}: {}{}", address,
            outcome.last_error.empty() ? fmt::format("curl ended with status {}", outcome.status)
                                       : outcome.last_error,
            now > 0 && ranges ? fmt::format(" ({} of {} bytes are kept; the same command goes on from there)",
                                            now, wanted_.bytes)
                              : "");
      } else if (now != wanted_.bytes) {
        remove_file(part_);
        return fmt::format("{}: expected {} bytes, found {}: it is another file", address, wanted_.bytes,
                           now);
      }
    }
    return {};
  }

  // Puts the part in its place once it has proven to be the file.
  void finish() {
    try {
      check_file(part_, wanted_.bytes, wanted_.sha256, "");
    } catch (const Error& error) {
      remove_file(part_);
      fail("{}; what {} sent was removed: try again, or {}", error.what(), address_, other_ways());
    }
    move_into_place(part_, wanted_.target);
  }

  std::string other_ways() const { return "name another server's folder with --mirror, or " + by_hand(); }

 private:
  ProcessOutcome run_curl() {
    ProcessRun run;
    run.program = "curl";
    run.arguments = {
        "curl",          "--fail", "--location",   "--silent", "--show-error",      "--globoff",
        "--continue-at", "-",      "--retry",      "2",        "--connect-timeout", "30",
        "--speed-limit", "1",      "--speed-time", "60",       "--output",          part_.string(),
        "--url",         address_};
    run.meanwhile = [&] { show(); };
    run.cure =
        "it does the downloading: install it (scripts/setup.sh, or apt-get install curl), or " + by_hand();
    begin_ = std::chrono::steady_clock::now();
    had_ = size_of(part_);
    return run_process(run);
  }

  std::string by_hand() const {
    return fmt::format(
        "get the file by hand ({}; SHA-256 {}), put it in place as {} and give the command again",
        wanted_.by_hand, wanted_.sha256, wanted_.target.string());
  }

  void show() const {
    const int64_t now = size_of(part_);
    if (now > wanted_.bytes)
      fail("{}: expected {} bytes, more have come: it is another file; {}", address_, wanted_.bytes,
           other_ways());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    progress(fmt::format(
        "{}  {:.1f} of {:.1f} MB  {} %  {:.1f} MB/s", wanted_.target.filename().string(),
        static_cast<double>(now) * 1e-6, static_cast<double>(wanted_.bytes) * 1e-6, now * 100 / wanted_.bytes,
        static_cast<double>(std::max<int64_t>(0, now - had_)) * 1e-6 / std::max(seconds, 0.2)));
  }

  const Download& wanted_;
  fs::path part_;
  std::string address_;
  std::chrono::steady_clock::time_point begin_{};
  int64_t had_ = 0;
};

}  // namespace

void check_file(const fs::path& file, int64_t bytes, const std::string& sha256, const std::string& cure) {
  const std::string end = cure.empty() ? "" : "; " + cure;
  if (const int64_t found = size_of(file); found != bytes)
    fail("{}: expected {} bytes, found {}{}", file.string(), bytes, found, end);
  if (const std::string found = sha256_of_file(file); found != sha256)
    fail("{}: expected SHA-256 {}, found {}{}", file.string(), sha256, found, end);
}

bool download(const Download& wanted) {
  if (stands_there(wanted.target)) {
    check_file(wanted.target, wanted.bytes, wanted.sha256,
               "it is damaged or another file: move it away and give the command again");
    return false;
  }
  Transfer transfer(wanted);
  for (size_t i = 0; i < wanted.addresses.size(); ++i) {
    const std::string failure = transfer.from(wanted.addresses[i]);
    if (failure.empty()) break;
    if (i + 1 == wanted.addresses.size()) fail("{}; {}", failure, transfer.other_ways());
    warn("{}; trying {}", failure, wanted.addresses[i + 1]);
  }
  transfer.finish();
  return true;
}

}  // namespace harmonic
