#include "harmonic/data/corpus_cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

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

std::optional<TokenCorpus> find_prepared(const fs::path& folder, const std::string& key) {
  try {
    if (key_of_prepared_folder(folder) == key) return open_prepared_folder(folder, ShardCheck::everything);
  } catch (const Error& error) {
    warn("{} (done now)", error.what());
  }
  return {};
}

TokenCorpus load_text(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ThreadPool& pool,
                      const PrepareOptions& options, const fs::path& cache) {
  if (std::find(inputs.begin(), inputs.end(), "-") != inputs.end())
    return corpus_in_memory(inputs, tokenizer, pool, options.reader);
  const std::string key = preparation_key(inputs, tokenizer, options);
  const fs::path folder = (cache.empty() ? cache_folder() / "tokens" : cache) / key.substr(0, 32);
  if (auto corpus = find_prepared(folder, key)) return *std::move(corpus);
  try {
    prepare_shards(inputs, tokenizer, folder, pool, options, key);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);  // half a preparation is of no use to anyone
    throw;
  }
  return open_prepared_folder(folder);
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
                        const PrepareOptions& options, const fs::path& cache) {
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
    TokenCorpus part = open_prepared_folder(input);
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
