#include "harmonic/server/clients.h"

#include <sodium.h>

#include <algorithm>
#include <cmath>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/server/http_text.h"

namespace harmonic {
namespace {

constexpr size_t kShortestKey = 16;

}  // namespace

ApiKeys::Hash ApiKeys::hash_of(std::string_view key) {
  Hash hash;
  constexpr std::string_view kUse = "harmonic api key owner";
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(key.data()), key.size(),
                     reinterpret_cast<const unsigned char*>(kUse.data()), kUse.size());
  return hash;
}

ApiKeys::ApiKeys(const std::string& file, std::string_view more) {
  if (::sodium_init() < 0) fail("libsodium cannot be used here");
  if (!file.empty()) {
    const std::string text = read_file(file, 1 << 20);
    for (std::string_view rest = text; !rest.empty();) {
      std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
      if (!line.empty() && line.front() != '#') add(line, file);
    }
    if (keys_.empty()) fail("{}: holds no API key; expected one a line", file);
  }
  if (!more.empty()) add(more, "HARMONIC_API_KEY");
}

void ApiKeys::add(std::string_view key, const std::string& where) {
  if (key.size() < kShortestKey)
    fail("{}: an API key of {} bytes; expected at least {}, such as openssl rand -hex 24 gives", where,
         key.size(), kShortestKey);
  const Hash hash = hash_of(key);
  if (std::find(keys_.begin(), keys_.end(), hash) == keys_.end()) keys_.push_back(hash);
}

std::optional<std::string> ApiKeys::owner_of(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  if (lower_case(authorization.substr(0, kScheme.size())) != kScheme) return {};
  const Hash hash = hash_of(authorization.substr(kScheme.size()));
  bool found = false;
  for (const Hash& key : keys_) found |= ::sodium_memcmp(key.data(), hash.data(), hash.size()) == 0;
  if (!found) return {};
  char text[2 * sizeof(Hash) + 1];
  ::sodium_bin2hex(text, sizeof text, hash.data(), hash.size());
  return text;
}

std::optional<ClientLimits::Refusal> ClientLimits::begin(const std::string& client) {
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  if (clients_.size() >= enough_) forget_idle(now);
  const auto [entry, is_new] = clients_.try_emplace(client);
  Client& known = entry->second;
  // A minute's worth may come at once.
  if (is_new) known.allowance = per_minute_;
  if (!is_new) {
    const double minutes = std::chrono::duration<double>(now - known.seen).count() / 60;
    known.allowance = std::min(per_minute_, known.allowance + minutes * per_minute_);
  }
  known.seen = now;
  if (known.at_work >= concurrent_) return Refusal{"too many requests at work", 1};
  if (per_minute_ > 0) {
    if (known.allowance < 1)
      return Refusal{"too many requests a minute",
                     static_cast<int>(std::ceil((1 - known.allowance) / per_minute_ * 60))};
    known.allowance -= 1;
  }
  ++known.at_work;
  return {};
}

void ClientLimits::end(const std::string& client) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found != clients_.end()) --found->second.at_work;
}

void ClientLimits::forget_idle(Clock::time_point now) {
  std::erase_if(clients_, [&](const auto& entry) {
    return entry.second.at_work == 0 && now - entry.second.seen > std::chrono::minutes(1);
  });
  enough_ = std::max<size_t>(1024, 2 * clients_.size());
}

}  // namespace harmonic
