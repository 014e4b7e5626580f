#include "harmonic/runtime/pack.h"

#include <algorithm>
#include <cstring>

#include "harmonic/base/checked.h"
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/portable_math.h"
#include "harmonic/base/put_number.h"
#include "harmonic/runtime/range_coder.h"

namespace harmonic {
namespace {

constexpr std::string_view kMagic = "HPACK1\r\n";  // a transfer that changes line ends is noticed
constexpr std::string_view kEnd = "HPACKEND";
constexpr size_t kChecksumBytes = 64, kIdentityBytes = 64;  // both in hexadecimal
constexpr int64_t kRowsAtOnce = 64;                         // of logits
constexpr size_t kBlocksAtOnce = 16;                        // that are unpacked side by side
constexpr uint32_t kFollows = 1, kIndex = 2;

enum class Kind : uint32_t { stored, coded };

// Whole numbers that stand for a row's probabilities: each at least 1, so that every token can be coded, and
// the same on every machine.
class Frequencies {
 public:
  explicit Frequencies(const Tensor& logits) : below_(static_cast<size_t>(logits.cols) + 1) {
    std::vector<double> weights(static_cast<size_t>(logits.cols));
    double most = number_at(logits, 0, 0), sum = 0;
    for (int64_t v = 1; v < logits.cols; ++v) most = std::max(most, number_at(logits, 0, v));
    for (int64_t v = 0; v < logits.cols; ++v) {
      const double weight = portable::exp_falling(number_at(logits, 0, v) - most);
      weights[static_cast<size_t>(v)] = weight;
      sum += weight;
    }
    if (!(sum >= 1)) fail("the model's logits are not finite; its weights are damaged or it has diverged");
    const double unit = (SymbolRange::kMostTotal - static_cast<double>(logits.cols)) / sum * (1 - 1e-9);
    for (size_t v = 0; v < weights.size(); ++v)
      below_[v + 1] = below_[v] + 1 + static_cast<uint32_t>(weights[v] * unit);
  }
  uint32_t total() const { return below_.back(); }
  SymbolRange of(int32_t token) const {
    const auto v = static_cast<size_t>(token);
    return {below_[v], below_[v + 1] - below_[v], total()};
  }
  int32_t at(uint32_t target) const {
    return static_cast<int32_t>(std::upper_bound(below_.begin(), below_.end(), target) - below_.begin()) - 1;
  }

 private:
  std::vector<uint32_t> below_;
};

// Of token i of a text in which the end of text stands for a NUL byte.
std::string_view bytes_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens, size_t i) {
  if (tokens[i] == tokenizer.eot()) return {"\0", 1};
  const bool first = i == 0 || tokens[i - 1] == tokenizer.eot();
  return first ? tokenizer.first_bytes_of(tokens[i]) : tokenizer.bytes_of(tokens[i]);
}

std::string text_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) text += bytes_of(tokenizer, tokens, i);
  return text;
}

std::vector<int32_t> tokens_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> tokens;
  for (;;) {
    const size_t end = text.find('\0');
    tokenizer.encode(text.substr(0, end), tokens);
    if (end == text.npos) return tokens;
    tokens.push_back(tokenizer.eot());
    text.remove_prefix(end + 1);
  }
}

// A reader of exact sizes.
class Input {
 public:
  Input(const Packer::Read& read, const std::string& name) : read_(read), name_(name) {}
  std::string take(int64_t bytes) {
    std::string text = read_(bytes);
    if (static_cast<int64_t>(text.size()) != bytes)
      fail("{}: ends too early; it was cut, or is no packed file", name_);
    taken += bytes;
    return text;
  }
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  const std::string& name() const { return name_; }
  int64_t taken = 0;

 private:
  const Packer::Read& read_;
  const std::string& name_;
};

void check_opening(Input& input, const std::string& identity) {
  if (input.take(kMagic.size()) != kMagic) fail("{}: not a file that harmonic pack wrote", input.name());
  if (input.take(kIdentityBytes) != identity)
    fail("{}: was packed with another model; only the exact model that packed it can unpack it",
         input.name());
}

}  // namespace

struct Packer::Block {
  Kind kind = Kind::stored;
  int64_t source_bytes = 0, tokens = 0, payload_bytes = 0;
  std::string payload, checksum;
  std::string text;  // unpacked

  // What stands before the payload, at byte `at` of the file, but for the number that says that a block
  // follows.
  static Block read_head(Input& input, int64_t at) {
    Block block;
    const auto kind = input.number<uint32_t>();
    block.source_bytes = input.number<uint32_t>();
    block.tokens = input.number<uint32_t>();
    block.payload_bytes = input.number<uint32_t>();
    // The same bounds as when packing: nobody's file makes this take more. Of each document one token may be
    // no bytes.
    if (kind > 1 || block.source_bytes > kMostBlockBytes || block.tokens > 2 * block.source_bytes ||
        block.payload_bytes > kMostBlockBytes)
      fail("{}: damaged: a block of sizes that none has at byte {}", input.name(), at);
    block.kind = static_cast<Kind>(kind);
    block.checksum = input.take(kChecksumBytes);
    return block;
  }
  void read_payload(Input& input) {
    payload = input.take(payload_bytes);
    if (kind == Kind::stored) text = payload;
  }
};

// Of one text that goes on from the token that leads every document. Where attention's memory is full, it
// begins anew.
std::string Packer::coded(const std::vector<int32_t>& tokens) {
  const Model& model = inference_.model();
  const int64_t longest = model.config().longest_text();
  RangeEncoder encoder;
  State state(model.state_layout());
  int32_t pending = tokenizer_.bos();
  std::vector<int32_t> inputs;
  std::vector<SymbolRange> ranges(kRowsAtOnce);
  const auto count = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < count;) {
    stop_if_interrupted();
    int64_t rows = std::min(count - begin, Inference::kRowsPerCall);
    if (longest > 0) {
      if (static_cast<int64_t>(state.position()) >= longest) {
        state = State(model.state_layout());
        pending = tokenizer_.bos();
      }
      rows = std::min(rows, longest - static_cast<int64_t>(state.position()));
    }
    inputs.assign(1, pending);
    inputs.insert(inputs.end(), tokens.begin() + begin, tokens.begin() + begin + rows - 1);
    const int64_t offsets[2] = {0, rows};
    const StateRows row(state, model.state_layout());
    const Tensor hidden = inference_.hidden(inputs.data(), {offsets, 1}, row, row);
    for (int64_t r = 0; r < rows; r += kRowsAtOnce) {
      const int64_t part = std::min(kRowsAtOnce, rows - r);
      const Tensor logits = inference_.logits(hidden.rows_of(r, part));
      inference_.context().pool.parallel_for(part, [&](int64_t i) {
        ranges[static_cast<size_t>(i)] =
            Frequencies(logits.rows_of(i, 1)).of(tokens[static_cast<size_t>(begin + r + i)]);
      });
      for (int64_t i = 0; i < part; ++i) encoder.encode(ranges[static_cast<size_t>(i)]);
    }
    begin += rows;
    pending = tokens[static_cast<size_t>(begin - 1)];
  }
  return encoder.finish();
}

bool Packer::fits(const std::vector<int32_t>& tokens, std::string_view bytes) const {
  return text_of(tokenizer_, tokens) == bytes;
}

Packer::Sizes Packer::pack(const Read& read, const Write& write) {
  Sizes sizes;
  std::string index;
  uint64_t blocks = 0;
  const auto out = [&](std::string_view bytes) {
    write(bytes);
    sizes.packed += static_cast<int64_t>(bytes.size());
  };
  HARMONIC_ASSERT(identity_.size() == kIdentityBytes);
  out(std::string(kMagic) + identity_);
  for (;;) {
    const std::string source = read(block_bytes_);
    if (source.empty()) break;
    sizes.source += static_cast<int64_t>(source.size());
    const std::vector<int32_t> tokens = tokens_of(tokenizer_, source);
    Kind kind = Kind::stored;
    std::string payload = source;
    // What the tokenizer does not give back as it was, and what the model makes no smaller, stays as it is.
    if (fits(tokens, source)) {
      std::string shorter = coded(tokens);
      if (shorter.size() < payload.size()) {
        payload = std::move(shorter);
        kind = Kind::coded;
      }
    }
    put_number(index, static_cast<uint64_t>(sizes.packed));
    ++blocks;
    std::string head;
    put_number(head, kFollows);
    put_number(head, static_cast<uint32_t>(kind));
    put_number(head, static_cast<uint32_t>(source.size()));
    put_number(head, static_cast<uint32_t>(tokens.size()));
    put_number(head, static_cast<uint32_t>(payload.size()));
    out(head + sha256(source));
    out(payload);
    if (static_cast<int64_t>(source.size()) < block_bytes_) break;
  }
  const auto index_at = static_cast<uint64_t>(sizes.packed);
  std::string tail;
  put_number(tail, kIndex);
  tail += index;
  put_number(tail, blocks);
  put_number(tail, index_at);
  out(tail + std::string(kEnd));
  return sizes;
}

void Packer::check(const std::vector<Block>& blocks, const std::string& source) {
  for (const Block& block : blocks)
    if (static_cast<int64_t>(block.text.size()) != block.source_bytes || sha256(block.text) != block.checksum)
      fail("{}: damaged: a block's checksum is not that of its content", source);
}

// Several at once, one token of each a step: a step costs little more than that of a single one.
void Packer::decode(std::vector<Block>& blocks, const std::string& source) {
  const Model& model = inference_.model();
  const int64_t longest = model.config().longest_text();
  struct Lane {
    RangeDecoder decoder;
    Block* block;
    std::vector<int32_t> tokens;
    int64_t bytes = 0;     // that they are
    bool in_vain = false;  // the last one is no bytes, and not the first of its document

    // What no text that was packed leads to, so that a forged block takes no more work than one that was.
    bool is_forged() const { return in_vain || bytes > block->source_bytes || decoder.is_past_end(); }
  };
  std::vector<Lane> lanes;
  for (Block& block : blocks)
    if (block.kind == Kind::coded && block.tokens > 0)
      lanes.push_back({RangeDecoder(block.payload), &block, {}});
  if (lanes.empty()) return check(blocks, source);
  Arena arena;
  const StateRows all =
      make_fresh_state_rows(arena, model.state_layout(), static_cast<int64_t>(lanes.size()));
  std::vector<int32_t> inputs(lanes.size(), tokenizer_.bos());
  std::vector<int64_t> offsets(lanes.size() + 1);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int64_t>(i);
  while (!lanes.empty()) {
    stop_if_interrupted();
    const auto count = static_cast<int64_t>(lanes.size());
    for (int64_t i = 0; i < count; ++i) {
      if (longest == 0 || static_cast<int64_t>(all.position(i)) < longest) continue;
      all.clear(i);
      inputs[static_cast<size_t>(i)] = tokenizer_.bos();
    }
    StateRows states = all;
    states.count = count;
    const Tensor hidden = inference_.hidden(inputs.data(), {offsets.data(), count}, states, states);
    const Tensor logits = inference_.logits(hidden);
    inference_.context().pool.parallel_for(count, [&](int64_t i) {
      Lane& lane = lanes[static_cast<size_t>(i)];
      const Frequencies frequencies(logits.rows_of(i, 1));
      const int32_t token =
          frequencies.at(std::min(lane.decoder.target(frequencies.total()), frequencies.total() - 1));
      lane.decoder.consume(frequencies.of(token));
      lane.tokens.push_back(token);
      inputs[static_cast<size_t>(i)] = token;
    });
    for (size_t i = lanes.size(); i-- > 0;) {
      Lane& lane = lanes[i];
      const size_t at = lane.tokens.size() - 1, bytes = bytes_of(tokenizer_, lane.tokens, at).size();
      lane.bytes += static_cast<int64_t>(bytes);
      lane.in_vain = bytes == 0 && at > 0 && lane.tokens[at - 1] != tokenizer_.eot();
      if (lane.is_forged()) fail("{}: damaged: a block's tokens are not those of a text of its size", source);
      if (static_cast<int64_t>(lane.tokens.size()) < lane.block->tokens) continue;
      lane.block->text = text_of(tokenizer_, lane.tokens);
      const size_t last = lanes.size() - 1;
      if (i < last) {
        std::memcpy(all.row(static_cast<int64_t>(i)), all.row(static_cast<int64_t>(last)),
                    static_cast<size_t>(all.row_bytes));
        inputs[i] = inputs[last];
        lanes[i] = std::move(lanes[last]);
      }
      lanes.pop_back();
    }
  }
  check(blocks, source);
}

Packer::Sizes Packer::unpack(const Read& read, const Write& write, const std::string& source) {
  Input input(read, source);
  Sizes sizes;
  check_opening(input, identity_);
  std::string index;
  uint64_t count = 0;
  for (bool more = true; more;) {
    std::vector<Block> blocks;
    while (blocks.size() < kBlocksAtOnce) {
      const auto at = static_cast<uint64_t>(input.taken);
      const auto what = input.number<uint32_t>();
      more = what == kFollows;
      if (!more) {
        if (what != kIndex) fail("{}: damaged: neither a block nor the end at byte {}", source, at);
        break;
      }
      put_number(index, at);
      ++count;
      Block block = Block::read_head(input, static_cast<int64_t>(at));
      block.read_payload(input);
      blocks.push_back(std::move(block));
    }
    decode(blocks, source);
    for (const Block& block : blocks) {
      write(block.text);
      sizes.source += block.source_bytes;
    }
  }
  const auto index_at = static_cast<uint64_t>(input.taken) - sizeof(uint32_t);
  const bool right = input.take(static_cast<int64_t>(index.size())) == index &&
                     input.number<uint64_t>() == count && input.number<uint64_t>() == index_at &&
                     input.take(kEnd.size()) == kEnd;
  if (!right || !read(1).empty()) fail("{}: damaged: its index is not that of its blocks", source);
  sizes.packed = input.taken;
  return sizes;
}

Packer::Sizes Packer::unpack_range(const ReadAt& read_at, int64_t packed_bytes, int64_t from, int64_t count,
                                   const Write& write, const std::string& source) {
  int64_t at = 0;
  const Read read = [&](int64_t most) {
    std::string bytes = read_at(at, most);
    at += static_cast<int64_t>(bytes.size());
    return bytes;
  };
  Input input(read, source);
  check_opening(input, identity_);
  constexpr int64_t kTail = 2 * sizeof(uint64_t) + kEnd.size(), kNumber = sizeof(uint32_t);
  const int64_t opening = input.taken;
  const auto fail_index = [&] { fail("{}: damaged or cut: its end is not that of a packed file", source); };
  if (packed_bytes < opening + kNumber + kTail) fail_index();
  at = packed_bytes - kTail;
  const auto blocks = static_cast<int64_t>(input.number<uint64_t>());
  const auto index_at = static_cast<int64_t>(input.number<uint64_t>());
  if (input.take(kEnd.size()) != kEnd || blocks < 0 || blocks > packed_bytes / 8 || index_at < opening ||
      index_at != packed_bytes - kTail - 8 * blocks - kNumber)
    fail_index();
  at = index_at;
  if (input.number<uint32_t>() != kIndex) fail_index();
  const std::string index = input.take(8 * blocks);

  Sizes sizes;
  int64_t begin = 0;  // of the block at hand, in what was packed
  std::vector<Block> needed;
  int64_t first = 0;  // where the first of them begins
  const auto give = [&] {
    decode(needed, source);
    for (const Block& block : needed) {
      const int64_t skipped = std::max<int64_t>(0, from - first);
      const std::string_view part =
          std::string_view(block.text)
              .substr(static_cast<size_t>(skipped), static_cast<size_t>(count - sizes.source));
      write(part);
      sizes.source += static_cast<int64_t>(part.size());
      first += block.source_bytes;
    }
    needed.clear();
  };
  for (int64_t i = 0; i < blocks && begin - from < count; ++i) {
    uint64_t offset;
    std::memcpy(&offset, index.data() + 8 * i, sizeof offset);
    if (offset < static_cast<uint64_t>(opening) || offset >= static_cast<uint64_t>(index_at)) fail_index();
    at = static_cast<int64_t>(offset);
    if (input.number<uint32_t>() != kFollows) fail_index();
    Block block = Block::read_head(input, static_cast<int64_t>(offset));
    if (begin + block.source_bytes > from) {
      if (needed.empty()) first = begin;
      block.read_payload(input);
      begin += block.source_bytes;
      needed.push_back(std::move(block));
      if (needed.size() == kBlocksAtOnce) give();
    } else {
      begin += block.source_bytes;
    }
  }
  if (from > begin) fail("{}: holds {} bytes; byte {} lies beyond its end", source, begin, from);
  give();
  sizes.packed = input.taken;
  return sizes;
}

}  // namespace harmonic
