// Whether a page is a tree of elements, for tests.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace harmonic {

// The first thing that makes `markup` no tree of elements with quoted attributes and known entities; empty
// when it is one.
inline std::string flaw_of(std::string_view markup) {
  std::vector<std::string> open;
  const auto near = [&](size_t at) { return std::string(markup.substr(at, 60)); };
  for (size_t at = 0; at < markup.size();) {
    if (markup.substr(at).starts_with("<!DOCTYPE html>")) {
      at += 15;
    } else if (markup[at] == '<') {
      size_t end = at;
      for (bool quoted = false; ++end < markup.size() && (quoted || markup[end] != '>');)
        if (markup[end] == '"') quoted = !quoted;
      if (end == markup.size()) return "a tag without end: " + near(at);
      const std::string tag(markup.substr(at + 1, end - at - 1));
      if (tag.find('<') != tag.npos) return "a tag within a tag: " + near(at);
      const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
      if (tag.starts_with("/")) {
        if (open.empty() || "/" + open.back() != tag) return "closes what is not open: " + near(at);
        open.pop_back();
      } else if (!tag.ends_with("/")) {
        open.push_back(name);
      }
      at = end + 1;
      if (!open.empty() && open.back() == "style" && !tag.starts_with("/")) at = markup.find("</style>", at);
    } else if (markup[at] == '&') {
      bool known = false;
      for (const char* entity : {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"})
        known = known || markup.substr(at).starts_with(entity);
      if (!known) return "an unknown entity: " + near(at);
      ++at;
    } else if (markup[at] == '>') {
      return "a stray >: " + near(at);
    } else {
      ++at;
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

}  // namespace harmonic
