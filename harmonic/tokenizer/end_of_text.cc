#include "harmonic/tokenizer/end_of_text.h"

#include "harmonic/base/error.h"

namespace harmonic {

int32_t choose_end_of_text(const std::map<int32_t, std::string>& specials, std::string_view source) {
  for (const std::string_view wanted : {kGpt2EndOfText, std::string_view("</s>")})
    for (const auto& [id, name] : specials)
      if (name == wanted) return id;
  if (specials.size() != 1)
    fail(
        "{}: cannot tell which token ends a text: expected a special token {} or </s>, or only one special "
        "token, found {}",
        source, kGpt2EndOfText, specials.size());
  return specials.begin()->first;
}

}  // namespace harmonic
