#include "harmonic/eval/context_targets.h"

#include "harmonic/base/files.h"

namespace harmonic {

Json ContextTargets::json() const {
  return {{"text_sha256", text_sha256}, {"longest", longest}, {"group", group}, {"groups", groups}};
}

std::string ContextTargets::difference_from(const ContextTargets& other) const {
  if (text_sha256 != other.text_sha256) return "other texts, or another tokenizer";
  const auto number = [](const char* what, int64_t is, int64_t was) {
    return is == was ? "" : fmt::format("{} {} instead of {}", what, is, was);
  };
  std::string difference = number("a longest context of", longest, other.longest);
  if (difference.empty()) difference = number("groups of", group, other.group);
  if (difference.empty()) difference = number("a number of groups of", groups, other.groups);
  return difference;
}

ContextTargets read_context_targets(const std::filesystem::path& path) {
  const Json json = read_json(path, 1 << 24);
  try {
    const Json& targets = json.at("targets");
    return {targets.at("text_sha256").get<std::string>(), targets.at("longest").get<int64_t>(),
            targets.at("group").get<int64_t>(), targets.at("groups").get<int64_t>()};
  } catch (const nlohmann::json::exception& error) {
    fail(
        "{}: does not say which targets it is of, as this version of harmonic eval --contexts --json does: "
        "{}",
        path.string(), error.what());
  }
}

}  // namespace harmonic
