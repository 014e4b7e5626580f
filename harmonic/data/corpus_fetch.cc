#include "harmonic/data/corpus_fetch.h"

#include <algorithm>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/base/file_lock.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/data/download.h"
#include "harmonic/data/text_file.h"

namespace harmonic {
namespace fs = std::filesystem;
namespace {

constexpr size_t kPiece = 1 << 20;

const CorpusSplit* split_of(const Corpus& corpus, const std::string& name) {
  if (corpus.splits.empty()) {
    if (!name.empty())
      fail_usage("--split {}: {} is published in parts and not split here", name, corpus.name);
    return nullptr;
  }
  if (name.empty()) return &corpus.splits.front();
  std::string names;
  for (const CorpusSplit& split : corpus.splits) {
    if (split.name == name) return &split;
    names += (names.empty() ? "" : " or ") + split.name;
  }
  fail_usage("--split {}: expected {} for {}", name, names, corpus.name);
}

// Whether a file is there, which then holds `wanted`. Throws Error where it holds anything else: it may be
// anybody's.
bool is_there_with(const fs::path& file, std::span<const uint8_t> wanted) {
  std::error_code error;
  if (!fs::exists(file, error)) return false;
  const MappedFile old(file);
  if (old.bytes().size() != wanted.size() ||
      std::memcmp(old.bytes().data(), wanted.data(), wanted.size()) != 0)
    fail("{}: is there with another content; take it away, or name another folder", file.string());
  return true;
}

bool is_there(const fs::path& file, const Corpus::Member& member) {
  std::error_code error;
  return !member.sha256.empty() && fs::is_regular_file(file, error) &&
         static_cast<int64_t>(fs::file_size(file, error)) == member.bytes &&
         sha256_of_file(file) == member.sha256;
}

void remove_quietly(const fs::path& file) {
  std::error_code ignored;
  fs::remove(file, ignored);
}

void write_member(TextFile& packed, const fs::path& file, const Corpus::Member& member) {
  const fs::path part = file.string() + ".part";
  {
    AtomicFile out(part);
    std::vector<char> buffer(kPiece);
    int64_t bytes = 0;
    for (size_t got = kPiece; got == kPiece;) {
      got = packed.read(buffer.data(), kPiece);
      bytes += static_cast<int64_t>(got);
      if (member.bytes > 0 && bytes > member.bytes)
        fail("{}: expected {} bytes, found more", packed.name(), member.bytes);
      out.write(buffer.data(), got);
      progress(fmt::format("{}  {} MB", file.filename().string(), bytes / 1'000'000));
    }
    out.commit();
  }
  end_progress();
  if (!member.sha256.empty())
    check_file(part, member.bytes, member.sha256, "unpacked from a file that is right");
  try {
    if (!is_there_with(file, MappedFile(part).bytes())) return move_into_place(part, file);
  } catch (const Error&) {
    remove_quietly(part);
    throw;
  }
  remove_quietly(part);
}

// The members that are not there already, in one pass over the packed file.
void unpack(const fs::path& packed_file, const Corpus& corpus, const fs::path& folder) {
  std::vector<const Corpus::Member*> missing;
  for (const Corpus::Member& member : corpus.members)
    if (!is_there(folder / member.file, member)) missing.push_back(&member);
  TextFile packed(packed_file);
  while (!missing.empty() && packed.next_member()) {
    const auto found = std::find_if(missing.begin(), missing.end(), [&](const Corpus::Member* member) {
      return packed.name() == packed_file.string() + ": " + member->member;
    });
    if (found == missing.end()) continue;
    write_member(packed, folder / (*found)->file, **found);
    missing.erase(found);
  }
  if (!missing.empty()) fail("{}: holds no member {}", packed_file.string(), missing.front()->member);
}

void write_part(std::span<const uint8_t> text, const CorpusPart& part, const fs::path& file) {
  const auto wanted = text.subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.bytes));
  if (is_there_with(file, wanted)) return;
  AtomicFile out(file);
  for (size_t done = 0; done < wanted.size(); done += kPiece) {
    stop_if_interrupted();
    out.write(wanted.data() + done, std::min(kPiece, wanted.size() - done));
  }
  out.commit();
}

}  // namespace

std::vector<fs::path> fetch_corpus(const Corpus& corpus, const FetchOptions& options) {
  const CorpusSplit* split = split_of(corpus, options.split);
  if (corpus.addresses.empty()) fail("{} cannot be fetched: {}", corpus.name, corpus.by_hand);
  make_folder(options.folder);
  const FileLock lock(options.folder / ".fetch-lock", FileLock::Kind::exclusive);
  if (lock.state() == FileLock::State::taken)
    fail("{}: another process is fetching into it; wait for its end, or name another folder",
         options.folder.string());

  Download wanted = {corpus.addresses, options.folder / corpus.file, corpus.bytes, corpus.sha256,
                     corpus.by_hand};
  if (!options.mirror.empty())
    wanted.addresses = {options.mirror + (options.mirror.ends_with('/') ? "" : "/") + corpus.file};
  if (!download(wanted)) log("{}: is there already, and right", wanted.target.string());
  if (corpus.members.empty()) return {wanted.target};
  unpack(wanted.target, corpus, options.folder);

  std::vector<fs::path> files;
  if (!split) {
    for (const Corpus::Member& member : corpus.members) files.push_back(options.folder / member.file);
    return files;
  }
  const fs::path whole = options.folder / corpus.members.front().file;
  const MappedFile text(whole);
  for (const CorpusPart& part : split->parts) {
    if (part.begin + part.bytes > static_cast<int64_t>(text.bytes().size()))
      fail("{}: holds {} bytes; {} were expected", whole.string(), text.bytes().size(),
           part.begin + part.bytes);
    write_part(text.bytes(), part, files.emplace_back(options.folder / part.file));
  }
  return files;
}

}  // namespace harmonic
