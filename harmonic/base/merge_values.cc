#include "harmonic/base/merge_values.h"

#include <algorithm>

namespace harmonic {

void merge(Value& into, const Value& from) {
  if (!from.table()) {
    into = from;
    return;
  }
  if (!into.table()) into = {Value::Table{}, from.where};
  for (const auto& [key, value] : *from.table()) {
    auto& entries = std::get<Value::Table>(into.data);
    const auto known =
        std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.first == key; });
    if (known == entries.end()) {
      entries.emplace_back(key, value);
    } else {
      merge(known->second, value);
    }
  }
}

}  // namespace harmonic
