#include "harmonic/data/corpus_cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>

#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// A corpus of the cache is a folder named by the beginning of its key. Who uses it holds its lock shared, who
// removes it holds it alone; the folder's time of change is its last use. While it is being prepared, or
// removed, its name goes on with a point, a random number, and ".tmp".
constexpr size_t kNameDigits = 32, kRandomDigits = 16;
constexpr std::string_view kTemporary = ".tmp";
constexpr std::string_view kLock = ".lock";

fs::path temporary_of(const fs::path& cache, std::string_view name) {
  std::random_device random;
  return cache / fmt::format("{}.{:08x}{:08x}{}", name, random(), random(), kTemporary);
}

bool is_hexadecimal(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == text.npos; }

// Whether this is a folder made here, and no other that somebody keeps beside.
bool is_ours(const fs::path& folder) {
  const std::string text = folder.filename().string();
  const std::string_view name = text;
  if (name.size() < kNameDigits || !is_hexadecimal(name.substr(0, kNameDigits))) return false;
  if (name.size() > kNameDigits)
    return name.size() == kNameDigits + 1 + kRandomDigits + kTemporary.size() && name[kNameDigits] == '.' &&
           is_hexadecimal(name.substr(kNameDigits + 1, kRandomDigits)) && name.ends_with(kTemporary);
  try {
    return key_of_prepared_folder(folder).starts_with(name);
  } catch (const Error&) {
    return false;
  }
}

// Those who have it open go on: on Linux a mapped file stays readable when its name is gone. Under another
// name first, so that nobody finds half of it. False where it cannot be renamed, or is gone already.
bool remove_corpus(const fs::path& folder) {
  const std::string name = folder.filename().string().substr(0, kNameDigits);
  const fs::path aside = temporary_of(folder.parent_path(), name);
  std::error_code error;
  fs::rename(folder, aside, error);
  if (error) return false;
  fs::remove_all(aside, error);
  return true;
}

struct Entry {
  fs::path folder;
  fs::file_time_type used;
  uintmax_t bytes = 0;
};

// Another process may remove it meanwhile: what is gone counts for nothing.
Entry entry_of(const fs::path& folder) {
  std::error_code error;
  Entry entry{folder, fs::last_write_time(folder, error)};
  for (fs::directory_iterator file(folder, error), end; !error && file != end; file.increment(error)) {
    std::error_code gone;
    const uintmax_t size = file->file_size(gone);
    if (!gone) entry.bytes += size;
  }
  return entry;
}

// Removes the least recently used corpora that nobody uses.
void keep_within(double gigabytes, const fs::path& cache) {
  if (gigabytes == 0) return;
  std::vector<Entry> entries;
  std::error_code error;
  for (fs::directory_iterator i(cache, error), end; !error && i != end; i.increment(error))
    if (is_ours(i->path())) entries.push_back(entry_of(i->path()));
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  double bytes = 0;
  for (const Entry& entry : entries) bytes += static_cast<double>(entry.bytes);
  for (const Entry& entry : entries) {
    if (bytes <= gigabytes * 1e9) return;
    try {
      const FileLock lock(entry.folder / kLock, FileLock::Kind::exclusive);
      if (lock.state() != FileLock::State::held || !remove_corpus(entry.folder)) continue;
    } catch (const Error&) {
      continue;  // not to be written by this user, or just removed by another process
    }
    bytes -= static_cast<double>(entry.bytes);
    log("{}: removed {} MB of prepared tokens, the least recently used, to keep within {} GB", cache.string(),
        entry.bytes / 1'000'000, gigabytes);
  }
}

// Marks a corpus as used, now and as long as the lock lives.
std::optional<FileLock> lock_for_use(const fs::path& folder) {
  std::error_code ignored;
  fs::last_write_time(folder, fs::file_time_type::clock::now(), ignored);
  try {
    return FileLock(folder / kLock, FileLock::Kind::shared);
  } catch (const Error&) {
    return {};  // a cache that this user may only read
  }
}

std::optional<TokenCorpus> find_prepared(const fs::path& folder, const std::string& key) {
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) return {};
  try {
    std::optional<FileLock> lock = lock_for_use(folder);
    if (key_of_prepared_folder(folder) == key)
      return open_prepared_folder(folder, ShardCheck::everything, std::move(lock));
  } catch (const Error& error) {
    warn("{} (done now)", error.what());
  }
  remove_corpus(folder);
  return {};
}

TokenCorpus load_text(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ThreadPool& pool,
                      const PrepareOptions& options, const CacheOptions& options_of_cache) {
  if (std::find(inputs.begin(), inputs.end(), "-") != inputs.end())
    return corpus_in_memory(inputs, tokenizer, pool, options.reader);
  const std::string key = preparation_key(inputs, tokenizer, options), name = key.substr(0, kNameDigits);
  const fs::path cache =
      options_of_cache.folder.empty() ? cache_folder() / "tokens" : options_of_cache.folder;
  if (auto corpus = find_prepared(cache / name, key)) return *std::move(corpus);

  const fs::path temporary = temporary_of(cache, name);
  make_folder(temporary);
  std::optional<FileLock> lock = lock_for_use(temporary);
  std::error_code error;
  try {
    prepare_shards(inputs, tokenizer, temporary, pool, options, key);
  } catch (...) {
    fs::remove_all(temporary, error);
    throw;
  }
  fs::rename(temporary, cache / name, error);
  if (error) {
    // Another process has prepared the same meanwhile.
    fs::remove_all(temporary, error);
    lock = lock_for_use(cache / name);
  }
  TokenCorpus corpus = open_prepared_folder(cache / name, ShardCheck::structure, std::move(lock));
  keep_within(options_of_cache.gigabytes, cache);
  return corpus;
}

}  // namespace

fs::path cache_folder() {
  if (const std::string own = environment("HARMONIC_CACHE"); !own.empty()) return own;
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "harmonic";
  if (const std::string home = environment("HOME"); !home.empty())
    return fs::path(home) / ".cache" / "harmonic";
  fail("no place for cached tokens: set HARMONIC_CACHE to a folder that can be written");
}

std::string preparation_key(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                            const PrepareOptions& options) {
  Json files = Json::array();
  for (const InputFile& file : list_input_files(inputs)) {
    stop_if_interrupted();
    if (file.path == "-") fail_usage("standard input cannot be cached; it is prepared in memory");
    struct stat status;
    if (::stat(file.path.c_str(), &status) != 0) fail("{}: cannot open: {}", file.path, std::strerror(errno));
    files.push_back({fs::absolute(file.path).lexically_normal().string(),
                     static_cast<int64_t>(status.st_size), static_cast<int64_t>(status.st_mtim.tv_sec),
                     static_cast<int64_t>(status.st_mtim.tv_nsec), file.named});
  }
  const Json all = {{"version", 1},
                    {"tokenizer", tokenizer.hash()},
                    {"vocab_size", tokenizer.vocab_size()},
                    {"eot", tokenizer.eot()},
                    {"format", name_of(options.reader.format)},
                    {"json_field", options.reader.json_field},
                    {"shard_tokens", options.shard_tokens},
                    {"files", files}};
  return sha256(all.dump(-1, ' ', false, Json::error_handler_t::replace));
}

TokenCorpus load_corpus(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ThreadPool& pool,
                        const PrepareOptions& options, const CacheOptions& cache) {
  if (inputs.empty())
    fail_usage("no data was named; expected text files, folders, patterns or prepared shards");
  std::optional<TokenCorpus> corpus;
  const auto add = [&](TokenCorpus part) { corpus = corpus ? corpus->followed_by(part) : std::move(part); };
  std::vector<std::string> text;
  const auto add_text = [&] {
    if (!text.empty()) add(load_text(text, tokenizer, pool, options, cache));
    text.clear();
  };
  for (const std::string& input : inputs) {
    if (!is_prepared_folder(input)) {
      if (options.reader.format == DocumentFormat::shards)
        fail("{}: holds no finished token shards (shards.json); make them with harmonic data prepare", input);
      text.push_back(input);
      continue;
    }
    add_text();
    TokenCorpus part = open_prepared_folder(input, ShardCheck::everything);
    if (part.identity() != identity_of(tokenizer))
      fail(
          "{}: prepared with another tokenizer (vocabulary {}, hash {:.12}) than the one in use (vocabulary "
          "{}, "
          "hash {:.12}); prepare it again with this one",
          input, part.identity().vocab_size, part.identity().hash, tokenizer.vocab_size(), tokenizer.hash());
    add(std::move(part));
  }
  add_text();
  return *std::move(corpus);
}

}  // namespace harmonic
