// Portable state tokens: a text's whole state, sealed, in the hands of the client. Any worker with the same
// keys and the same model opens them; none needs to remember anything.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "harmonic/runtime/text_point.h"

namespace harmonic {

// XChaCha20-Poly1305 with a random nonce. A token is bound to the format's version, the key, the model's
// identity and the owner, and expires. It is a value: whoever opens one twice has forked the text. Immutable;
// any thread may call.
class StateSeal {
 public:
  // `keyring`: a key of 64 hexadecimal digits a line; the first seals, all open. Throws Error unless the
  // file is of mode 0600 and every key whole. The model must outlive it.
  StateSeal(const std::filesystem::path& keyring, const Model& model, std::string identity);
  ~StateSeal();
  StateSeal(const StateSeal&) = delete;
  StateSeal& operator=(const StateSeal&) = delete;

  // `expires`, `now`: Unix seconds. The token is text for URLs and JSON.
  std::string seal(const TextPoint& point, const std::string& owner, int64_t expires) const;
  // Throws Error saying what is wrong with it; of one that was not sealed for this owner, model and keys, no
  // more than that.
  TextPoint open(std::string_view token, const std::string& owner, int64_t now) const;

 private:
  static constexpr size_t kKeyBytes = 32, kKeyIdBytes = 8;
  struct Key {
    std::array<unsigned char, kKeyBytes> secret;
    std::string id;
  };
  std::string bound_to(const std::string& key_id, const std::string& owner) const;

  const Model& model_;
  const std::string identity_;
  std::vector<Key> keys_;
};

}  // namespace harmonic
