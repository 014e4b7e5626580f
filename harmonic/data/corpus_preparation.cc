#include "harmonic/data/corpus_preparation.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "harmonic/base/error.h"
#include "harmonic/base/file_lock.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kManifest = "shards.json";
constexpr std::string_view kManifestFormat = "harmonic token shards";
constexpr int64_t kBatchBytes = int64_t{1} << 23;  // of text tokenised at a time
constexpr size_t kPieceBytes = size_t{1} << 18;    // longer documents are cut, to be shared among threads
constexpr size_t kBatchDocuments = 1 << 14;

std::string shard_name(size_t index) { return fmt::format("tokens-{:05}.shard", index); }

struct TextBatch {
  std::vector<std::string> documents;  // [0, count) are in use; the strings keep their memory
  size_t count = 0;

  void read(DocumentSource& source) {
    count = 0;
    for (int64_t bytes = 0; bytes < kBatchBytes && count < kBatchDocuments; ++count) {
      if (count == documents.size()) documents.emplace_back();
      if (!source.next(documents[count])) return;
      bytes += static_cast<int64_t>(documents[count].size());
    }
  }
  // One very long document must not hold its memory to the end.
  void trim() {
    for (std::string& document : documents)
      if (static_cast<int64_t>(document.capacity()) > kBatchBytes) std::string().swap(document);
  }
};

// A part of a document that is tokenised by itself.
struct Piece {
  size_t document;
  std::string_view text;
  bool first;
  std::vector<int32_t> tokens;
};

// Cuts the documents into pieces, where the tokenizer allows it, and hands out a round of them at a time.
class Pieces {
 public:
  Pieces(const TextBatch& batch, const Tokenizer& tokenizer) : batch_(batch), tokenizer_(tokenizer) {}

  // Fills `round`, whose pieces keep their memory; returns how many there are, 0 at the end.
  size_t next(std::vector<Piece>& round) {
    size_t count = 0;
    for (int64_t bytes = 0; document_ < batch_.count && bytes < kBatchBytes; ++count) {
      const std::string_view rest = std::string_view(batch_.documents[document_]).substr(begin_);
      const size_t size =
          rest.size() <= kPieceBytes ? rest.size() : tokenizer_.cut_position(rest, kPieceBytes);
      if (count == round.size()) round.emplace_back();
      round[count].document = document_;
      round[count].text = rest.substr(0, size);
      round[count].first = begin_ == 0;
      bytes += static_cast<int64_t>(size);
      begin_ += size;
      if (size == rest.size()) {
        ++document_;
        begin_ = 0;
      }
    }
    return count;
  }

 private:
  const TextBatch& batch_;
  const Tokenizer& tokenizer_;
  size_t document_ = 0, begin_ = 0;
};

// Calls begin(text bytes) for every document in order, and append(tokens) for its tokens part by part, on
// this thread. While a batch is tokenised, one thread reads the next.
template <typename Begin, typename Append>
void tokenise(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ThreadPool& pool,
              const ReaderOptions& options, Begin begin, Append append) {
  DocumentSource source(inputs, options);
  TextBatch batch, following;
  std::vector<Piece> round;
  const auto start = std::chrono::steady_clock::now();
  int64_t bytes = 0;
  bool shown = false;
  for (batch.read(source); batch.count > 0; std::swap(batch, following)) {
    Pieces pieces(batch, tokenizer);
    bool read_following = true;
    while (const size_t count = pieces.next(round)) {
      pool.parallel_for(static_cast<int64_t>(count + read_following), [&](int64_t i) {
        stop_if_interrupted();
        const auto index = static_cast<size_t>(i) - read_following;
        if (read_following && i == 0) {
          following.read(source);
        } else {
          round[index].tokens.clear();
          if (round[index].first) {
            tokenizer.encode(round[index].text, round[index].tokens);
          } else {
            tokenizer.encode_continuation(round[index].text, round[index].tokens);
          }
        }
      });
      read_following = false;
      for (size_t i = 0; i < count; ++i) {
        if (round[i].first) begin(static_cast<int64_t>(batch.documents[round[i].document].size()));
        append(round[i].tokens);
        bytes += static_cast<int64_t>(round[i].text.size());
        if (round[i].text.size() > 2 * kPieceBytes) std::vector<int32_t>().swap(round[i].tokens);
      }
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (seconds < 1) continue;
      shown = true;
      progress(fmt::format("tokenising: {:.0f} MB, {:.0f} MB/s", static_cast<double>(bytes) / 1e6,
                           static_cast<double>(bytes) / 1e6 / seconds));
    }
    batch.trim();
  }
  if (shown) end_progress();
}

Json read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifest;
  Json manifest = read_json(path);
  const auto bad = [&](std::string_view what) {
    fail("{}: not a list of token shards: {}; prepare the data again", path.string(), what);
  };
  if (!manifest.is_object() || manifest.value("format", Json()) != kManifestFormat) bad("no such format");
  if (manifest.value("version", Json()) != 1) bad("its version is not 1");
  const Json shards = manifest.value("shards", Json());
  if (!shards.is_array() || shards.empty()) bad("it names no shards");
  for (size_t i = 0; i < shards.size(); ++i) {
    const Json& shard = shards[i];
    if (!shard.is_object() || shard.value("file", Json()) != shard_name(i) ||
        !shard.value("checksum", Json()).is_string())
      bad(fmt::format("shard {} is not described by its file and checksum", i));
  }
  return manifest;
}

// Where shards wait until all are whole: a hidden folder within the one they are for, which may be a mount of
// its own. Whoever prepares there holds its lock; what a killed preparation left is taken over. Gone with
// this.
class Staging {
 public:
  explicit Staging(const fs::path& folder) : path_(folder / ".preparing"), lock_(lock_of(path_)) {
    if (lock_.state() == FileLock::State::taken)  // thrown from here, nothing is removed
      fail("{}: another process is preparing tokens there; wait for it or name another folder",
           folder.string());
  }
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const fs::path& path() const { return path_; }

 private:
  static FileLock lock_of(const fs::path& path) {
    make_folder(path);
    return FileLock(path / "lock", FileLock::Kind::exclusive);
  }

  fs::path path_;
  FileLock lock_;
};

void rename_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) fail("{}: cannot be put in its place: {}", to.string(), error.message());
}

// Puts whole shards and their list in the place of those that were there. In between, the folder holds none.
void publish(const fs::path& from, const fs::path& folder, size_t count) {
  std::error_code error;
  fs::remove(folder / kManifest, error);
  if (error) fail("{}: cannot remove it to prepare anew: {}", (folder / kManifest).string(), error.message());
  for (size_t i = 0; i < count; ++i) rename_file(from / shard_name(i), folder / shard_name(i));
  for (size_t i = count; fs::remove(folder / shard_name(i), error); ++i) {
  }
  rename_file(from / kManifest, folder / kManifest);
  sync_folder(folder);
}

void prepare_within(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                    const fs::path& folder, ThreadPool& pool, const PrepareOptions& options,
                    const std::string& key) {
  const Staging staging(folder);
  const TokenizerIdentity identity = identity_of(tokenizer);
  TokenShardBuilder builder(identity);
  Json shards = Json::array();
  const auto flush = [&] {
    const fs::path path = staging.path() / shard_name(shards.size());
    builder.write(path);
    builder = TokenShardBuilder(identity);
    const TokenShard written = TokenShard::open(path);
    shards.push_back({{"file", path.filename().string()},
                      {"tokens", written.tokens()},
                      {"documents", written.documents()},
                      {"source_bytes", written.source_bytes()},
                      {"checksum", fmt::format("{:016x}", written.checksum())}});
  };
  tokenise(
      inputs, tokenizer, pool, options.reader,
      [&](int64_t text_bytes) {
        if (builder.tokens() >= options.shard_tokens) flush();
        builder.begin_document(text_bytes);
      },
      [&](const std::vector<int32_t>& tokens) { builder.append(tokens); });
  if (builder.documents() > 0) flush();

  const Json manifest = {{"format", kManifestFormat},
                         {"version", 1},
                         {"vocab_size", identity.vocab_size},
                         {"eot_token_id", identity.eot},
                         {"tokenizer_hash", identity.hash},
                         {"key", key},
                         {"shards", shards}};
  write_file(staging.path() / kManifest, manifest.dump(1) + "\n");
  publish(staging.path(), folder, shards.size());
}

}  // namespace

void prepare_shards(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                    const fs::path& folder, ThreadPool& pool, const PrepareOptions& options,
                    const std::string& key) {
  if (options.shard_tokens < 1)
    fail_usage("shard_tokens is {}; at least 1 was expected", options.shard_tokens);
  std::error_code error;
  const bool made = !fs::exists(folder, error);
  make_folder(folder);
  try {
    prepare_within(inputs, tokenizer, folder, pool, options, key);
  } catch (...) {
    if (made) fs::remove(folder, error);  // which does nothing where it holds something
    throw;
  }
}

bool is_prepared_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path / kManifest, error);
}

TokenCorpus open_prepared_folder(const fs::path& folder, ShardCheck check, std::optional<FileLock> lock) {
  const Json manifest = read_manifest(folder);
  std::vector<TokenShard> shards;
  for (const Json& described : manifest["shards"]) {
    const fs::path path = folder / described["file"].get<std::string>();
    shards.push_back(TokenShard::open(path, check));
    if (described["checksum"] != fmt::format("{:016x}", shards.back().checksum()))
      fail("{}: is not the shard that {} names; prepare the data again", path.string(), kManifest);
  }
  return TokenCorpus(std::move(shards), std::move(lock));
}

std::string key_of_prepared_folder(const fs::path& folder) {
  if (!is_prepared_folder(folder)) return {};
  const Json manifest = read_manifest(folder);
  const auto key = manifest.find("key");
  return key != manifest.end() && key->is_string() ? key->get<std::string>() : std::string();
}

TokenCorpus corpus_in_memory(const std::vector<std::string>& inputs, const Tokenizer& tokenizer,
                             ThreadPool& pool, const ReaderOptions& options) {
  TokenShardBuilder builder(identity_of(tokenizer));
  tokenise(
      inputs, tokenizer, pool, options, [&](int64_t text_bytes) { builder.begin_document(text_bytes); },
      [&](const std::vector<int32_t>& tokens) { builder.append(tokens); });
  std::vector<TokenShard> shards;
  shards.push_back(TokenShard::from_image(builder.image(), "corpus in memory"));
  return TokenCorpus(std::move(shards));
}

}  // namespace harmonic
