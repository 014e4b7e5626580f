#include "harmonic/eval/certificate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <string_view>

#include "harmonic/base/checked.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/random.h"

namespace harmonic {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int64_t kTokensAPhase = 64;     // of noise at least: the standard error of fewer says too little
constexpr int64_t kMostPhases = 1 << 12;  // told apart in noise; a longer stride's are taken several together
constexpr int64_t kLongestStride = 1 << 16;  // whose blocks the texts are long enough to cross
constexpr int64_t kShortText = 1 << 9;       // so long a text may be for every prefix that is tried
constexpr int64_t kMostGradients = 1 << 12;  // tokens of a text, whose positions each cost a pass back

// What is kept of a row of logits: a hash of its bits; and sums with random signs, which tell how far apart
// two rows are where bits need not be equal.
struct RowPrint {
  static constexpr int kSums = 4;
  uint64_t hash = 0;
  double sums[kSums] = {}, norm = 0;
};

// Logits of a text, all rows one after the other, and the state after it.
struct Outcome {
  std::vector<RowPrint> logits;
  State state;
};

// On a card the sums of a product depend on how many rows it has, and those of a scan on where its tiles
// begin: what differs by more than rounding explains is a difference. What no rounding touches, that a later
// token changes nothing before it and has no gradient there, is exact there, too.
constexpr double kDeviceTolerance = 2e-3;  // relative, of a row of logits or of a state

uint64_t hash_of(const Tensor& row) {
  const std::string_view bytes{static_cast<const char*>(row.data),
                               static_cast<size_t>(row.cols * size_of(row.dtype))};
  return std::hash<std::string_view>{}(bytes);
}

// `signs` has a bit for each sum and column; without them only the hash is taken.
RowPrint print_of(const Tensor& row, const std::vector<uint8_t>& signs) {
  RowPrint print;
  print.hash = hash_of(row);
  if (signs.empty()) return print;
  for (int64_t c = 0; c < row.cols; ++c) {
    const double number = number_at(row, 0, c);
    for (int k = 0; k < RowPrint::kSums; ++k)
      print.sums[k] += (signs[static_cast<size_t>(c)] >> k & 1) ? number : -number;
    print.norm += number * number;
  }
  print.norm = std::sqrt(print.norm);
  return print;
}

class Examiner {
 public:
  Examiner(Model& model, ThreadPool& pool, const CertificateOptions& options)
      : model_(model),
        pool_(pool),
        options_(options),
        inference_(model, pool),
        tolerance_(model.backend().device == Device::cpu ? 0 : kDeviceTolerance),
        vocabulary_(model.config().vocab_size) {
    const std::vector<int64_t>& strides = model.strides();
    length_ = length_for(strides.back());
    // Long enough for keys to be forgotten, too.
    const int64_t window = model.config().uses("attention") ? model.config().attention.window : 0;
    length_ = std::max(length_, std::min(window, kLongestStride) + 2 * 64 + 35);
    if (window > kLongestStride) remark_ = fmt::format("; too few to forget a key of a window of {}", window);
    if (const int64_t longest = model.config().longest_text(); longest > 0)
      length_ = std::min(length_, longest);
    const Random random(1, stream_of("signs"));
    for (int64_t c = 0; tolerance_ > 0 && c < vocabulary_; ++c)
      signs_.push_back(static_cast<uint8_t>(random.bits(static_cast<uint64_t>(c))));
    const auto beyond =
        std::find_if(strides.begin(), strides.end(), [](int64_t s) { return s > kLongestStride; });
    if (beyond != strides.end()) remark_ = fmt::format("; too few to cross blocks of {} tokens", *beyond);
  }

  Certificate run() {
    add("a changed suffix changes no logit before it", [&] { return suffixes(); });
    add("a prefix alone has the logits it has within the whole", [&] { return prefixes(); });
    if (options_.gradients) gradients();
    add("token by token equals parallel", [&] { return split({1}, "token by token"); });
    for (int64_t size : {3, 5, 15, 17, 64})
      add(fmt::format("chunks of {} equal the whole", size), [&] { return split({size}, "chunked"); });
    add("chunks of random sizes equal the whole", [&] { return split(random_sizes(), "chunked"); });
    add("documents packed together do not influence each other", [&] { return packed(); });
    noise();
    return std::move(certificate_);
  }

 private:
  // Tokens that cross every border of blocks of this stride, of tiles of the scans, and of pieces of chunked
  // runs.
  static int64_t length_for(int64_t stride) {
    return std::max<int64_t>(288, 3 * std::min(stride, kLongestStride) + 35);
  }

  template <typename Test>
  void add(std::string name, Test test) {
    // Empty: passed.
    equality_ = "all bits equal";
    const std::string failure = test();
    certificate_.tests.push_back(
        {std::move(name), failure.empty(),
         failure.empty() ? fmt::format("{} tokens, {}{}", length_, equality_, remark_) : failure});
  }

  // Distinct uses of the seed have distinct streams.
  Tokens random_tokens(int64_t count, std::string_view use) const {
    const Random random(options_.seed, stream_of(use));
    Tokens tokens(static_cast<size_t>(count));
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocabulary_)));
    return tokens;
  }

  // Runs `tokens` in pieces of the given sizes (the last one repeats), from a zero state.
  Outcome run_in_pieces(const Tokens& tokens, const std::vector<int64_t>& sizes) {
    Outcome outcome{{}, State(model_.state_layout())};
    const StateRows row(outcome.state, model_.state_layout());
    const auto total = static_cast<int64_t>(tokens.size());
    size_t next = 0;
    for (int64_t begin = 0; begin < total;) {
      const int64_t size = std::min(total - begin, sizes[std::min(next++, sizes.size() - 1)]);
      const int64_t offsets[2] = {0, size};
      append_logits(inference_.hidden(tokens.data() + begin, {offsets, 1}, row, row), outcome.logits);
      begin += size;
    }
    return outcome;
  }

  void append_logits(const Tensor& hidden, std::vector<RowPrint>& to) {
    for (int64_t begin = 0; begin < hidden.rows; begin += Inference::kRowsPerCall) {
      stop_if_interrupted();
      const int64_t rows = std::min(hidden.rows - begin, Inference::kRowsPerCall);
      const Tensor logits = inference_.logits(hidden.rows_of(begin, rows));
      for (int64_t r = 0; r < rows; ++r) to.push_back(print_of(logits.rows_of(r, 1), signs_));
    }
  }

  const Outcome& whole() {
    if (whole_.logits.empty()) whole_ = run_in_pieces(text(), {length_});
    return whole_;
  }
  const Tokens& text() {
    if (text_.empty()) text_ = random_tokens(length_, "text");
    return text_;
  }

  // Within the tolerance, which is none on the cpu.
  bool close(const RowPrint& a, const RowPrint& b) {
    if (a.hash == b.hash) return true;
    if (tolerance_ == 0) return false;
    equality_ = fmt::format("equal within {:.0e}", tolerance_);
    for (int k = 0; k < RowPrint::kSums; ++k)
      if (!(std::abs(a.sums[k] - b.sums[k]) <= tolerance_ * b.norm)) return false;
    return true;
  }
  bool close(const State& a, const State& b) {
    if (a == b) return true;
    if (tolerance_ == 0 || a.position() != b.position()) return false;
    const auto count = static_cast<size_t>(a.bytes()) / sizeof(float);
    const auto* of_a = static_cast<const float*>(a.data());
    const auto* of_b = static_cast<const float*>(b.data());
    double difference = 0, size = 0;
    for (size_t i = sizeof(uint64_t) / sizeof(float); i < count; ++i) {
      const double d = of_a[i] - of_b[i];
      difference += d * d;
      size += static_cast<double>(of_b[i]) * of_b[i];
    }
    return std::sqrt(difference) <= tolerance_ * std::sqrt(size);
  }

  // The first of `count` rows in which two runs differ; -1 when none does.
  int64_t first_difference(const std::vector<RowPrint>& a, const std::vector<RowPrint>& b, int64_t count) {
    for (int64_t r = 0; r < count; ++r)
      if (!close(a[static_cast<size_t>(r)], b[static_cast<size_t>(r)])) return r;
    return -1;
  }
  // The same to the bit, also on a card: what is compared was computed alike.
  static int64_t first_other_bits(const std::vector<RowPrint>& a, const std::vector<RowPrint>& b,
                                  int64_t count) {
    for (int64_t r = 0; r < count; ++r)
      if (a[static_cast<size_t>(r)].hash != b[static_cast<size_t>(r)].hash) return r;
    return -1;
  }

  // Every prefix length 1..33, and both sides of the first borders of tiles and pieces and of each level's
  // blocks (of the first ones only: each length costs a run), with the length of the text that each is tried
  // in: the whole, but where that is long as much as crosses the borders in question.
  std::map<int64_t, int64_t> prefixes_and_lengths() const {
    std::map<int64_t, int64_t> result;
    const auto add = [&](int64_t prefix, int64_t stride) {
      const int64_t length = std::min(length_, std::max(kShortText, length_for(stride)));
      if (prefix >= 1 && prefix < length) result[prefix] = std::max(result[prefix], length);
    };
    for (int64_t p = 1; p <= 33; ++p) add(p, 1);
    std::vector<int64_t> borders = model_.strides();
    borders.push_back(64);
    for (int64_t border : borders)
      for (int64_t k = 1; k <= 3 && border <= kLongestStride; ++k)
        for (int64_t beside = -1; beside <= 1; ++beside) add(k * border + beside, border);
    // And far on in the whole, where a window has forgotten keys.
    for (const int64_t prefix : {length_ / 2, length_ - 33})
      if (prefix >= 1) result[prefix] = length_;
    return result;
  }

  std::string suffixes() {
    const Tokens other = random_tokens(length_, "other suffix");
    for (const auto& [p, length] : prefixes_and_lengths()) {
      Tokens changed(text().begin(), text().begin() + length);
      for (int64_t t = p; t < length; ++t) {
        auto& token = changed[static_cast<size_t>(t)];
        const int32_t fresh = other[static_cast<size_t>(t)];
        token = fresh != token ? fresh : static_cast<int32_t>((fresh + 1) % vocabulary_);
      }
      const std::vector<RowPrint> found = run_in_pieces(changed, {length}).logits;
      const int64_t row = length == length_ ? first_other_bits(whole().logits, found, p)
                                            : first_difference(whole().logits, found, p);
      if (row >= 0)
        return fmt::format("tokens from {} on were changed, and the logits at {} changed", p, row);
    }
    return {};
  }

  std::string prefixes() {
    for (const auto& [p, length] : prefixes_and_lengths()) {
      const Tokens prefix(text().begin(), text().begin() + p);
      const int64_t row = first_difference(whole().logits, run_in_pieces(prefix, {p}).logits, p);
      if (row >= 0)
        return fmt::format("the first {} tokens alone give other logits at {} than within the whole", p, row);
    }
    return {};
  }

  std::string split(const std::vector<int64_t>& sizes, std::string_view how) {
    const Outcome pieces = run_in_pieces(text(), sizes);
    const int64_t row = first_difference(whole().logits, pieces.logits, length_);
    if (row >= 0) return fmt::format("{}: the logits at {} differ from the parallel ones", how, row);
    if (!close(pieces.state, whole().state))
      return fmt::format("{}: the final state differs from the parallel one", how);
    return {};
  }

  std::vector<int64_t> random_sizes() const {
    const Random random(options_.seed, stream_of("sizes"));
    std::vector<int64_t> sizes;
    for (uint64_t i = 0; i < static_cast<uint64_t>(length_); ++i)
      sizes.push_back(1 + static_cast<int64_t>(random.below(i, 40)));
    return sizes;
  }

  std::string packed() {
    const int64_t first = length_ / 3 + 1, second = length_ - first;
    const Tokens neighbour = random_tokens(first, "neighbour");
    const Tokens document(text().begin(), text().begin() + second);
    const Outcome alone = run_in_pieces(document, {second});
    for (const bool before : {true, false}) {
      Tokens both = before ? neighbour : document;
      both.insert(both.end(), (before ? document : neighbour).begin(), (before ? document : neighbour).end());
      const int64_t middle = before ? first : second;
      const int64_t offsets[3] = {0, middle, length_};
      Arena arena;
      const StateRows states = make_state_rows(arena, model_.state_layout(), 2);
      const Tensor hidden = inference_.hidden(both.data(), {offsets, 2}, states, states);
      std::vector<RowPrint> logits;
      append_logits(hidden.rows_of(before ? first : 0, second), logits);
      const int64_t row = first_difference(alone.logits, logits, second);
      if (row >= 0)
        return fmt::format("a document {} it changes a document's logits at {}", before ? "before" : "after",
                           row);
    }
    return {};
  }

  // Tokens are all different here, so that each row of the embedding's gradient belongs to one position: the
  // text is no longer than the vocabulary.
  void gradients() {
    // A window of attention asks for no longer one: each position costs a pass back through all of it.
    const int64_t length =
        std::min({length_, length_for(model_.strides().back()), vocabulary_, kMostGradients});
    const std::string failure = gradients_within(length);
    certificate_.tests.push_back(
        {"no gradient flows from a logit to a later embedding", failure.empty(),
         failure.empty() ? fmt::format("{} tokens, all gradients exactly zero", length) : failure});
  }

  std::string gradients_within(int64_t length) {
    Tokens tokens(static_cast<size_t>(vocabulary_));
    std::iota(tokens.begin(), tokens.end(), 0);
    const Random random(options_.seed, stream_of("gradients"));
    for (size_t i = tokens.size() - 1; i > 0; --i) std::swap(tokens[i], tokens[random.below(i, i + 1)]);
    tokens.resize(static_cast<size_t>(length));
    Parameter& table = *model_.parameters().find("embed.weight");
    std::string failure;
    MemorySource* const source = model_.backend().memory;
    Arena scratch(source), memory(source);
    GradientPool pool(source);
    Context context{pool_, scratch};
    for (int64_t t = 0; t < length && failure.empty(); t += t < 34 ? 1 : 13) {
      stop_if_interrupted();
      const ArenaScope scope(memory);
      Tape tape(model_.backend(), context, memory, &pool);
      const StateRows states = make_state_rows(memory, model_.state_layout(), 1);
      const StateRows after = make_state_rows(memory, model_.state_layout(), 1);
      const StateRows d_in = make_state_rows(memory, model_.state_layout(), 1);
      const int64_t offsets[2] = {0, length};
      Step step(tape, {offsets, 1}, states, after, {}, d_in);
      const Variable hidden =
          model_.forward(step, {tokens.data(), 1, length, length, DType::i32, Device::cpu});
      const Tensor seed = tape.gradient(hidden);
      tape.synchronize();
      for (int64_t c = 0; c < seed.cols; ++c)
        set_number(seed, t, c, 2 * random.uniform(static_cast<uint64_t>(c)) - 1);
      tape.backward();
      tape.synchronize();
      bool reached = false;
      for (int64_t other = 0; other < length && failure.empty(); ++other) {
        const int64_t row = tokens[static_cast<size_t>(other)];
        for (int64_t c = 0; c < table.grad.cols; ++c) {
          const bool nonzero = number_at(table.grad, row, c) != 0;  // true for NaN
          reached |= nonzero && other <= t;
          if (nonzero && other > t)
            failure = fmt::format("the logits at {} have a gradient at the embedding of {}", t, other);
        }
      }
      if (failure.empty() && !reached) failure = fmt::format("the logits at {} have no gradient at all", t);
      model_.parameters().clear_gradients();
    }
    return failure;
  }

  static void set_number(const Tensor& tensor, int64_t row, int64_t column, double value) {
    if (tensor.dtype == DType::f64) {
      tensor.row<double>(row)[column] = value;
    } else {
      tensor.row<float>(row)[column] = static_cast<float>(value);
    }
  }

  // Uniformly random tokens carry log2 V bits each; nobody can do better, at no phase of any level.
  void noise() {
    const int64_t phases = std::min(model_.strides().back(), kMostPhases);
    const int64_t count = std::max(options_.random_tokens, kTokensAPhase * phases);
    const Tokens tokens = random_tokens(count + 1, "noise");
    std::vector<double> bits;
    const int64_t longest = model_.config().longest_text();
    for (int64_t begin = 0; begin < count;) {
      const int64_t length = longest > 0 ? std::min(longest, count - begin) : count;
      State state(model_.state_layout());
      inference_.score(state, tokens.data() + begin, length, bits);
      begin += length;
    }
    for (int64_t stride : model_.strides()) noise_by_phase(stride, bits);
  }

  void noise_by_phase(int64_t stride, const std::vector<double>& bits) {
    const int64_t together = ceil_div(stride, kMostPhases);  // phases, neighbours
    struct Sum {
      double bits = 0, squares = 0, count = 0;
    };
    std::vector<Sum> sums(static_cast<size_t>(ceil_div(stride, together)));
    for (size_t t = 0; t < bits.size(); ++t) {
      Sum& sum = sums[static_cast<size_t>(static_cast<int64_t>(t) % stride / together)];
      sum.bits += bits[t];
      sum.squares += bits[t] * bits[t];
      ++sum.count;
    }
    const double chance = std::log2(static_cast<double>(vocabulary_));
    // Four standard errors leave one false alarm in 30,000; with many phases some more, so that all of them
    // together leave no more.
    const double errors = std::sqrt(16 + 2 * std::log(static_cast<double>(sums.size())));
    CertificateTest test;
    test.name = stride == 1
                    ? "random tokens score no better than chance"
                    : fmt::format("random tokens score no better than chance at every t mod {}", stride);
    test.passed = true;
    double worst = std::numeric_limits<double>::infinity();
    for (const Sum& sum : sums) {
      if (sum.count == 0) continue;  // of a stride longer than the noise
      const double mean = sum.bits / sum.count;
      const double variance = std::max(0.0, sum.squares / sum.count - mean * mean);
      const double error = std::sqrt(variance / sum.count);
      // 1e-4: rounding of a loss that is log V at every token, where the standard error is nearly zero.
      if (!(mean >= chance - errors * error - 1e-4)) test.passed = false;
      worst = std::min(worst, mean);
    }
    test.detail = fmt::format(
        "{:.4f} bits a token at the lowest, chance is {:.4f} ({} tokens{})", worst, chance, bits.size(),
        together == 1 ? "" : fmt::format(", {} neighbouring phases together", together));
    certificate_.tests.push_back(std::move(test));
  }

  Model& model_;
  ThreadPool& pool_;
  CertificateOptions options_;
  Inference inference_;
  double tolerance_;
  std::vector<uint8_t> signs_;  // for print_of()
  std::string equality_;        // of the test at hand
  int64_t vocabulary_, length_;
  std::string remark_;  // what the length leaves out
  Tokens text_;
  Outcome whole_;
  Certificate certificate_;
};

}  // namespace

bool Certificate::passed() const {
  return !tests.empty() &&
         std::all_of(tests.begin(), tests.end(), [](const CertificateTest& t) { return t.passed; });
}

Certificate certify(Model& model, ThreadPool& pool, const CertificateOptions& options) {
  if (options.gradients && !model.parameters().trained())
    fail("the certificate's test of gradients needs a model loaded for training");
  return Examiner(model, pool, options).run();
}

Certificate certify_for_measurement(Model& model, ThreadPool& pool) {
  Arena scratch(model.backend().memory);
  Context context{pool, scratch};
  model.pack(context);
  return certify(model, pool, {.random_tokens = 2048, .gradients = false});
}

}  // namespace harmonic
