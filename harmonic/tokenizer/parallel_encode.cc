#include "harmonic/tokenizer/parallel_encode.h"

namespace harmonic {

std::vector<std::string_view> independent_stretches(const Tokenizer& tokenizer, std::string_view text,
                                                    size_t size) {
  std::vector<std::string_view> stretches;
  for (size_t begin = 0; begin < text.size();) {
    const size_t wanted = text.size() - begin > size ? begin + size : text.size();
    const size_t end = wanted < text.size() ? tokenizer.cut_position(text, wanted) : wanted;
    stretches.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return stretches;
}

std::vector<int32_t> encode_in_parallel(const Tokenizer& tokenizer, std::string_view text, ThreadPool& pool,
                                        bool continues) {
  constexpr size_t stretch = size_t{1} << 19;
  const std::vector<std::string_view> stretches = independent_stretches(tokenizer, text, stretch);
  std::vector<std::vector<int32_t>> parts(stretches.size());
  pool.parallel_for(static_cast<int64_t>(stretches.size()), [&](int64_t i) {
    const size_t at = static_cast<size_t>(i);
    if (continues || i > 0) {
      tokenizer.encode_continuation(stretches[at], parts[at]);
    } else {
      tokenizer.encode(stretches[at], parts[at]);
    }
  });
  if (parts.size() == 1) return std::move(parts[0]);
  size_t total = 0;
  for (const auto& part : parts) total += part.size();
  std::vector<int32_t> tokens;
  tokens.reserve(total);
  for (const auto& part : parts) tokens.insert(tokens.end(), part.begin(), part.end());
  return tokens;
}

}  // namespace harmonic
