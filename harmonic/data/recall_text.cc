#include "harmonic/data/recall_text.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numbers>

#include "harmonic/base/error.h"
#include "harmonic/base/portable_math.h"
#include "harmonic/base/random.h"
#include "harmonic/base/utf8.h"
#include "harmonic/data/text_file.h"

namespace harmonic {
namespace {

constexpr int64_t kPairBytes = RecallText::kDigits + 3;      // "b=71" and what divides it from the next
constexpr int64_t kQuestionBytes = RecallText::kDigits + 4;  // "?b=71" and the same
constexpr int64_t kValues = [] {
  int64_t values = 1;
  for (int64_t i = 0; i < RecallText::kDigits; ++i) values *= 10;
  return values;
}();
constexpr int64_t kAroundFiller = 5;  // the newline before it, and "\n?b=" after it
constexpr size_t kWords = 16;

// Few and always the same, so that a small model soon knows them.
std::vector<std::string> make_words() {
  constexpr std::string_view kConsonants = "bdfgklmnprstvz", kVowels = "aeiou";
  const Random random(0, stream_of("recall words"));
  std::vector<std::string> words(kWords);
  uint64_t index = 0;
  for (std::string& word : words) {
    for (uint64_t syllables = 1 + random.below(index++, 3); syllables > 0; --syllables) {
      word += kConsonants[random.below(index++, kConsonants.size())];
      word += kVowels[random.below(index++, kVowels.size())];
    }
  }
  return words;
}

// Blanks the parts of characters that stand at both ends of a text that was cut out of another.
void blank_cut_characters(std::string& text) {
  for (char& byte : text) {
    if ((static_cast<uint8_t>(byte) & 0xC0) != 0x80) break;
    byte = ' ';
  }
  for (size_t i = text.size() - std::min<size_t>(text.size(), 3); i < text.size(); ++i) {
    if (static_cast<uint8_t>(text[i]) < 0xC0) continue;
    if (read_utf8(std::string_view(text).substr(i)).kind == Utf8Step::Kind::incomplete)
      std::fill(text.begin() + static_cast<std::ptrdiff_t>(i), text.end(), ' ');
  }
}

void check_pairs(int64_t pairs) {
  if (pairs < 1 || pairs > RecallText::kMostPairs)
    fail_usage("{} pairs of a key and a value; expected 1 to {}", pairs, RecallText::kMostPairs);
}

}  // namespace

// The random numbers of one text.
class RecallText::Draws {
 public:
  Draws(uint64_t seed, std::string_view stream, uint64_t index)
      : random_(seed, stream_of(stream)), index_(index << 32) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_.below(index_++, static_cast<uint64_t>(bound)));
  }
  // From 1 to `most`: each power of two is as likely as the next, up to a limit that is drawn like that too.
  // Mostly short, since a model learns from these first, and sooner the more there are.
  int64_t of_any_size(int64_t most) { return of_any_power(of_any_power(most)); }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[static_cast<size_t>(below(static_cast<int64_t>(i)))]);
  }

  // So many pairs, "b=71": of the first so many letters, since what is learned of a key helps with no other,
  // and with different values.
  std::vector<std::string> pairs(int64_t count) {
    std::vector<char> keys;
    for (int64_t i = 0; i < count; ++i) keys.push_back(static_cast<char>('a' + i));
    shuffle(keys);
    std::vector<int64_t> values;
    while (static_cast<int64_t>(values.size()) < count) {
      const int64_t value = below(kValues);
      if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
    }
    std::vector<std::string> pairs;
    for (size_t i = 0; i < values.size(); ++i)
      pairs.push_back(fmt::format("{}={:0{}}", keys[i], values[i], kDigits));
    return pairs;
  }

 private:
  int64_t of_any_power(int64_t most) {
    const double size = portable::log(static_cast<double>(most)) * std::numbers::log2e;
    return std::clamp<int64_t>(static_cast<int64_t>(portable::exp2(random_.uniform(index_++) * size)), 1,
                               most);
  }

  Random random_;
  uint64_t index_;
};

RecallText::RecallText(std::string filler) : filler_(std::move(filler)), words_(make_words()) {
  std::replace(filler_.begin(), filler_.end(), '=', '-');
  std::replace(filler_.begin(), filler_.end(), '\0', ' ');
}

RecallText RecallText::with_filler_of(const std::string& path) {
  if (path.empty()) return RecallText();
  std::string filler = read_text(path, kMostFiller);
  if (filler.empty()) fail("{}: is empty; expected a text to cut filler from", path);
  return RecallText(std::move(filler));
}

void RecallText::append_filler(Draws& draws, int64_t bytes, std::string& text) const {
  std::string filler;
  const auto size = static_cast<size_t>(bytes);
  if (!filler_.empty()) {
    const int64_t beginnings = std::max<int64_t>(1, static_cast<int64_t>(filler_.size()) - bytes + 1);
    for (size_t from = static_cast<size_t>(draws.below(beginnings)); filler.size() < size; from = 0)
      filler.append(filler_, from, size - filler.size());
    blank_cut_characters(filler);
  } else {
    while (filler.size() < size) filler += words_[static_cast<size_t>(draws.below(kWords))] + ' ';
    filler.resize(size);
  }
  text += filler;
}

std::string RecallText::document(uint64_t seed, uint64_t index, int64_t pairs, int64_t length) const {
  check_pairs(pairs);
  const int64_t beside_filler = pairs * (kPairBytes + kQuestionBytes) + 1;
  if (length <= beside_filler)
    fail_usage(
        "documents of {} bytes have no room to bind {} pairs and to ask for them; expected at least {}",
        length, pairs, beside_filler + 1);
  Draws draws(seed, "recall documents", index);
  std::string text;
  for (;;) {
    const int64_t room = length - static_cast<int64_t>(text.size());
    if (room <= beside_filler) break;
    std::vector<std::string> bound = draws.pairs(pairs);
    text += fmt::format("{}\n", fmt::join(bound, " "));
    append_filler(draws, draws.of_any_size(room - beside_filler), text);
    draws.shuffle(bound);
    text += fmt::format("\n?{}\n", fmt::join(bound, " ?"));
  }
  append_filler(draws, length - static_cast<int64_t>(text.size()), text);
  return text;
}

RecallQuestion RecallText::question(uint64_t seed, uint64_t index, int64_t pairs, int64_t distance) const {
  check_distance(pairs, distance);
  Draws draws(seed, fmt::format("recall questions of {} pairs at {}", pairs, distance), index);
  const std::vector<std::string> bound = draws.pairs(pairs);
  const int64_t asked = draws.below(pairs);
  const std::string& pair = bound[static_cast<size_t>(asked)];
  RecallQuestion question{fmt::format("{}\n", fmt::join(bound, " ")), pair.substr(2)};
  append_filler(draws, distance - kAroundFiller - (pairs - 1 - asked) * kPairBytes, question.prefix);
  question.prefix += "\n?" + pair.substr(0, 2);
  return question;
}

void RecallText::check_distance(int64_t pairs, int64_t distance) {
  check_pairs(pairs);
  const int64_t shortest = kAroundFiller + 1 + (pairs - 1) * kPairBytes;
  if (distance < shortest)
    fail_usage("a distance of {} bytes has no room for {} pairs; expected at least {}", distance, pairs,
               shortest);
}

double RecallText::chance(int64_t pairs) {
  return pairs == 1 ? 1 / static_cast<double>(kValues) : 1 / static_cast<double>(pairs);
}

}  // namespace harmonic
