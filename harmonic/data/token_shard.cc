#include "harmonic/data/token_shard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "harmonic/base/checked.h"
#include "harmonic/base/error.h"
#include "harmonic/base/interrupt.h"

namespace harmonic {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are read in place");

constexpr std::string_view kMagic = "HARMTOKN";
constexpr uint32_t kVersion = 1, kVersionWithBos = 2;
constexpr int64_t kMostNarrow = 65536;

struct Header {
  char magic[8];
  uint32_t version, token_bytes;
  uint64_t vocab_size, eot, tokens, documents, source_bytes, tokens_checksum, index_checksum;
  uint8_t tokenizer_hash[32];
  uint64_t bos, zeros;  // bos: 0 in version 1
  uint64_t header_checksum;
};
static_assert(sizeof(Header) == 128 && offsetof(Header, header_checksum) == 120);

class Checksum {
 public:
  explicit Checksum(int64_t size) : value_(static_cast<uint64_t>(size)) {}
  void add(const uint8_t* data, int64_t size) {  // a multiple of 8
    for (int64_t i = 0; i < size; i += 8) {
      uint64_t word;
      std::memcpy(&word, data + i, 8);
      value_ = std::rotl(value_ ^ word, 29) * 0x9fb21c651e98df25;
    }
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_;
};

uint64_t checksum_of(const void* data, int64_t size) {
  Checksum sum(size);
  sum.add(static_cast<const uint8_t*>(data), size);
  return sum.value();
}

int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

void hash_to_bytes(const std::string& text, uint8_t (&bytes)[32]) {
  bool good = text.size() == 64;
  for (size_t i = 0; good && i < 32; ++i) {
    const int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
    good = high >= 0 && low >= 0;
    bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if (!good) fail("a tokenizer's hash must be 64 lower-case hexadecimal digits; found \"{}\"", text);
}

// Tokens are checked by pieces of so many bytes.
constexpr int64_t kPiece = int64_t{1} << 26;

}  // namespace

TokenizerIdentity identity_of(const Tokenizer& tokenizer) {
  return {tokenizer.vocab_size(), tokenizer.eot(), tokenizer.hash(), tokenizer.bos()};
}

TokenShardBuilder::TokenShardBuilder(TokenizerIdentity identity)
    : identity_(std::move(identity)), narrow_(identity_.vocab_size <= kMostNarrow) {
  uint8_t bytes[32];
  hash_to_bytes(identity_.hash, bytes);
  if (identity_.eot < 0 || identity_.eot >= identity_.vocab_size)
    fail("end-of-text token {} is outside the vocabulary of {}", identity_.eot, identity_.vocab_size);
  if (identity_.bos < 0 || identity_.bos >= identity_.vocab_size)
    fail("begin-of-text token {} is outside the vocabulary of {}", identity_.bos, identity_.vocab_size);
}

void TokenShardBuilder::add(std::span<const int32_t> tokens, int64_t text_bytes) {
  begin_document(text_bytes);
  append(tokens);
}

void TokenShardBuilder::begin_document(int64_t text_bytes) {
  offsets_.push_back(static_cast<uint64_t>(tokens()));
  bytes_.push_back(static_cast<uint64_t>(text_bytes) + 1);
  if (narrow_) {
    tokens16_.push_back(static_cast<uint16_t>(identity_.eot));
  } else {
    tokens32_.push_back(static_cast<uint32_t>(identity_.eot));
  }
}

void TokenShardBuilder::append(std::span<const int32_t> tokens) {
  HARMONIC_ASSERT(!bytes_.empty());
  for (int32_t token : tokens)
    if (token < 0 || token >= identity_.vocab_size)
      fail("the tokenizer gave token {}; its vocabulary has {}", token, identity_.vocab_size);
  if (narrow_) {
    tokens16_.insert(tokens16_.end(), tokens.begin(), tokens.end());
  } else {
    tokens32_.insert(tokens32_.end(), tokens.begin(), tokens.end());
  }
}

int64_t TokenShardBuilder::tokens() const {
  return static_cast<int64_t>(narrow_ ? tokens16_.size() : tokens32_.size());
}

// Calls sink(data, size) for the file's pieces in order.
template <typename Sink>
void TokenShardBuilder::emit(Sink sink) const {
  if (bytes_.empty()) fail("a token shard needs at least one document");
  // The last EOT and the padding do not exist in the vectors, so the last word is put together here.
  const int64_t width = narrow_ ? 2 : 4;
  const auto* data = narrow_ ? reinterpret_cast<const uint8_t*>(tokens16_.data())
                             : reinterpret_cast<const uint8_t*>(tokens32_.data());
  const int64_t held = tokens() * width, whole = held / 8 * 8;
  uint8_t tail[16] = {};
  std::memcpy(tail, data + whole, static_cast<size_t>(held - whole));
  const auto eot = static_cast<uint32_t>(identity_.eot);
  std::memcpy(tail + (held - whole), &eot, static_cast<size_t>(width));
  const int64_t tail_size = round_up(held - whole + width, 8);

  std::vector<uint64_t> index = offsets_;
  index.push_back(static_cast<uint64_t>(tokens()));
  index.insert(index.end(), bytes_.begin(), bytes_.end());
  const auto index_size = static_cast<int64_t>(index.size() * 8);

  Header header = {};
  std::memcpy(header.magic, kMagic.data(), kMagic.size());
  const bool own_bos = identity_.bos != identity_.eot;
  header.version = own_bos ? kVersionWithBos : kVersion;
  header.token_bytes = static_cast<uint32_t>(width);
  header.vocab_size = static_cast<uint64_t>(identity_.vocab_size);
  header.eot = static_cast<uint64_t>(identity_.eot);
  if (own_bos) header.bos = static_cast<uint64_t>(identity_.bos);
  header.tokens = static_cast<uint64_t>(tokens()) + 1;
  header.documents = bytes_.size();
  for (uint64_t bytes : bytes_) header.source_bytes += bytes;
  Checksum tokens_checksum(whole + tail_size);
  tokens_checksum.add(data, whole);
  tokens_checksum.add(tail, tail_size);
  header.tokens_checksum = tokens_checksum.value();
  header.index_checksum = checksum_of(index.data(), index_size);
  hash_to_bytes(identity_.hash, header.tokenizer_hash);
  header.header_checksum = checksum_of(&header, offsetof(Header, header_checksum));

  sink(&header, sizeof header);
  sink(data, static_cast<size_t>(whole));
  sink(tail, static_cast<size_t>(tail_size));
  sink(index.data(), static_cast<size_t>(index_size));
}

void TokenShardBuilder::write(const std::filesystem::path& path) const {
  AtomicFile file(path);
  emit([&](const void* data, size_t size) { file.write(data, size); });
  file.commit();
}

std::string TokenShardBuilder::image() const {
  std::string bytes;
  emit([&](const void* data, size_t size) { bytes.append(static_cast<const char*>(data), size); });
  return bytes;
}

TokenShard TokenShard::open(const std::filesystem::path& path, ShardCheck check) {
  TokenShard shard;
  shard.name_ = path.string();
  shard.map_ = MappedFile(path);
  shard.parse(shard.map_.bytes(), check);
  return shard;
}

TokenShard TokenShard::from_image(std::string image, std::string name) {
  TokenShard shard;
  shard.name_ = std::move(name);
  shard.image_ = std::move(image);
  shard.parse({reinterpret_cast<const uint8_t*>(shard.image_.data()), shard.image_.size()},
              ShardCheck::everything);
  return shard;
}

void TokenShard::parse(std::span<const uint8_t> file, ShardCheck check) {
  const auto size = static_cast<int64_t>(file.size());
  const auto damaged = [&](std::string_view found) {
    fail("{}: not a sound token shard: {}; prepare the data again", name_, found);
  };
  Header header;
  if (file.size() < sizeof header)
    damaged(fmt::format("{} bytes, where the header alone has {}", size, sizeof header));
  std::memcpy(&header, file.data(), sizeof header);
  if (std::string_view(header.magic, sizeof header.magic) != kMagic)
    damaged("it does not begin with HARMTOKN");
  if (header.version != kVersion && header.version != kVersionWithBos)
    fail("{}: token shard of version {}; this program reads versions {} and {}; prepare the data again",
         name_, header.version, kVersion, kVersionWithBos);
  if (header.header_checksum != checksum_of(&header, offsetof(Header, header_checksum)))
    damaged("the header does not match its checksum");
  // A checksum is no seal: a file made on purpose must not get further either.
  if (header.vocab_size < 1 || header.vocab_size > (uint64_t{1} << 31) || header.eot >= header.vocab_size)
    damaged(fmt::format("vocabulary of {}, end-of-text token {}", header.vocab_size, header.eot));
  token_bytes_ = static_cast<int64_t>(header.vocab_size) <= kMostNarrow ? 2 : 4;
  if (header.token_bytes != token_bytes_)
    damaged(fmt::format("{} bytes a token, where a vocabulary of {} takes {}", header.token_bytes,
                        header.vocab_size, token_bytes_));
  const bool own_bos = header.version == kVersionWithBos;
  if (header.zeros || (!own_bos && header.bos)) damaged("reserved bytes are not zero");
  if (own_bos && (header.bos >= header.vocab_size || header.bos == header.eot))
    damaged(fmt::format("begin-of-text token {}, vocabulary of {}, end-of-text token {}", header.bos,
                        header.vocab_size, header.eot));
  token_count_ = checked_narrow<int64_t>(header.tokens, name_ + ": tokens");
  document_count_ = checked_narrow<int64_t>(header.documents, name_ + ": documents");
  source_bytes_ = checked_narrow<int64_t>(header.source_bytes, name_ + ": source bytes");
  if (document_count_ < 1 || document_count_ >= token_count_)
    damaged(fmt::format("{} documents in {} tokens", document_count_, token_count_));
  if (token_count_ > size || document_count_ > size)
    damaged(fmt::format("{} tokens and {} documents in {} bytes", token_count_, document_count_, size));
  const int64_t tokens_size = round_up(token_count_ * token_bytes_, 8);
  const int64_t index_size = (2 * document_count_ + 1) * 8;
  const int64_t expected =
      checked_add(static_cast<int64_t>(sizeof header), checked_add(tokens_size, index_size, name_ + ": size"),
                  name_ + ": size");
  if (size != expected) damaged(fmt::format("{} bytes, where its header asks for {}", size, expected));

  identity_.vocab_size = static_cast<int64_t>(header.vocab_size);
  identity_.eot = static_cast<int32_t>(header.eot);
  identity_.bos = own_bos ? static_cast<int32_t>(header.bos) : identity_.eot;
  for (uint8_t byte : header.tokenizer_hash) identity_.hash += fmt::format("{:02x}", byte);
  checksum_ = header.header_checksum;
  tokens_ = file.data() + sizeof header;
  offsets_ = reinterpret_cast<const uint64_t*>(tokens_ + tokens_size);
  bytes_ = offsets_ + document_count_ + 1;
  if (header.index_checksum != checksum_of(offsets_, index_size))
    damaged("the document index does not match its checksum");
  check_index();
  if (check == ShardCheck::everything)
    check_tokens({tokens_, static_cast<size_t>(tokens_size)}, header.tokens_checksum);
}

void TokenShard::check_index() const {
  const auto tokens = static_cast<uint64_t>(token_count_);
  uint64_t sum = 0;
  bool good = offsets_[0] == 0 && offsets_[document_count_] == tokens - 1;
  for (int64_t d = 0; d < document_count_; ++d) {
    good = good && offsets_[d] < offsets_[d + 1] && bytes_[d] >= 1 && bytes_[d] <= uint64_t{1} << 62;
    good = good && !__builtin_add_overflow(sum, bytes_[d], &sum);
  }
  if (!good || sum != static_cast<uint64_t>(source_bytes_))
    fail("{}: not a sound token shard: the document index contradicts itself; prepare the data again", name_);
}

void TokenShard::check_tokens(std::span<const uint8_t> tokens, uint64_t expected) const {
  const auto size = static_cast<int64_t>(tokens.size());
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  Checksum sum(size);
  std::vector<int32_t> some(4096);
  int64_t document = 0;
  bool eot_leads_documents = true;
  for (int64_t at = 0; at < size; at += kPiece) {
    stop_if_interrupted();
    const int64_t end = std::min(at + kPiece, size), last_token = std::min(end / token_bytes_, token_count_);
    sum.add(tokens.data() + at, end - at);
    for (int64_t begin = at / token_bytes_; begin < last_token; begin += std::ssize(some)) {
      const int64_t count = std::min(std::ssize(some), last_token - begin);
      read(begin, count, some.data());
      for (; document <= document_count_ && offset(document) < begin + count; ++document)
        eot_leads_documents &= some[static_cast<size_t>(offset(document) - begin)] == identity_.eot;
    }
    if (!image_.empty()) continue;
    // Read once from a map, these pages would stand in the resident size of the program for nothing.
    const auto first_page = (reinterpret_cast<uintptr_t>(tokens.data() + at) + page - 1) / page * page;
    const auto last_page = reinterpret_cast<uintptr_t>(tokens.data() + end) / page * page;
    if (first_page < last_page)
      ::madvise(reinterpret_cast<void*>(first_page), last_page - first_page, MADV_DONTNEED);
  }
  if (sum.value() != expected)
    fail("{}: not a sound token shard: the tokens do not match their checksum; prepare the data again",
         name_);
  if (!eot_leads_documents)
    fail(
        "{}: not a sound token shard: a document does not begin with the end-of-text token; "
        "prepare the data again",
        name_);
}

void TokenShard::read(int64_t begin, int64_t count, int32_t* out) const {
  HARMONIC_ASSERT(begin >= 0 && count >= 0 && count <= token_count_ - begin);
  uint32_t largest = 0;
  const auto copy = [&](const auto* from) {
    for (int64_t i = 0; i < count; ++i) {
      largest = std::max<uint32_t>(largest, from[i]);
      out[i] = static_cast<int32_t>(from[i]);
    }
  };
  if (token_bytes_ == 2) {
    copy(reinterpret_cast<const uint16_t*>(tokens_) + begin);
  } else {
    copy(reinterpret_cast<const uint32_t*>(tokens_) + begin);
  }
  if (largest >= static_cast<uint64_t>(identity_.vocab_size))
    fail("{}: token {} is outside the vocabulary of {}; prepare the data again", name_, largest,
         identity_.vocab_size);
}

int64_t TokenShard::document_at(int64_t position) const {
  HARMONIC_ASSERT(position >= 0 && position < token_count_);
  const uint64_t* end = offsets_ + document_count_;
  return std::upper_bound(offsets_, end, static_cast<uint64_t>(position)) - offsets_ - 1;
}

}  // namespace harmonic
