#include "harmonic/runtime/state_seal.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr unsigned char kVersion = 1;
constexpr size_t kNonceBytes = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES;
constexpr size_t kTagBytes = crypto_aead_xchacha20poly1305_ietf_ABYTES;
constexpr int64_t kLargestRing = 1 << 16;
constexpr int kEncoding = sodium_base64_VARIANT_URLSAFE_NO_PADDING;
constexpr const char* kForeign =
    "the state token was not sealed for this API key and model by a key that is known here, or it is damaged";

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}
unsigned char* bytes_of(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

// The file's content, of the very file whose mode was looked at.
std::string read_secret(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("{}: cannot open: {}; expected a keyring", path.string(), std::strerror(errno));
  struct stat found;
  std::string text;
  const bool readable = ::fstat(file, &found) == 0 && S_ISREG(found.st_mode) && found.st_size <= kLargestRing;
  if (readable && (found.st_mode & 07777) == 0600) {
    text.resize(static_cast<size_t>(found.st_size));
    const ssize_t got = ::read(file, text.data(), text.size());
    text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    ::close(file);
    return text;
  }
  ::close(file);
  if (readable)
    fail("{}: has mode {:04o}; expected 0600, so that nobody else reads it (chmod 600)", path.string(),
         found.st_mode & 07777);
  fail("{}: expected a file of at most {} bytes with a key of 64 hexadecimal digits a line", path.string(),
       kLargestRing);
}

}  // namespace

StateSeal::StateSeal(const std::filesystem::path& keyring, const Model& model, std::string identity)
    : model_(model), identity_(std::move(identity)) {
  if (::sodium_init() < 0) fail("libsodium cannot be used here");
  std::string text = read_secret(keyring);
  int number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    Key key;
    size_t length = 0;
    const char* end = nullptr;
    if (line.size() != 2 * kKeyBytes ||
        ::sodium_hex2bin(key.secret.data(), key.secret.size(), line.data(), line.size(), nullptr, &length,
                         &end) != 0 ||
        length != kKeyBytes)
      fail("{}:{}: expected a key of 64 hexadecimal digits, such as openssl rand -hex 32 gives",
           keyring.string(), number);
    unsigned char id[16];
    ::crypto_generichash(id, sizeof id, key.secret.data(), key.secret.size(), nullptr, 0);
    key.id.assign(reinterpret_cast<const char*>(id), kKeyIdBytes);
    keys_.push_back(std::move(key));
    ::sodium_memzero(key.secret.data(), key.secret.size());
  }
  ::sodium_memzero(text.data(), text.size());
  if (keys_.empty()) fail("{}: holds no key; expected 64 hexadecimal digits a line", keyring.string());
}

StateSeal::~StateSeal() {
  for (Key& key : keys_) ::sodium_memzero(key.secret.data(), key.secret.size());
}

std::string StateSeal::bound_to(const std::string& key_id, const std::string& owner) const {
  return std::string(1, static_cast<char>(kVersion)) + key_id + identity_ + '\n' + owner;
}

std::string StateSeal::seal(const TextPoint& point, const std::string& owner, int64_t expires) const {
  const Key& key = keys_.front();
  std::string plain(sizeof expires, '\0');
  std::memcpy(plain.data(), &expires, sizeof expires);
  plain += encode_point(point);
  std::string sealed(1, static_cast<char>(kVersion));
  sealed += key.id;
  const size_t nonce = sealed.size(), body = nonce + kNonceBytes;
  sealed.resize(body + plain.size() + kTagBytes);
  ::randombytes_buf(sealed.data() + nonce, kNonceBytes);
  const std::string bound = bound_to(key.id, owner);
  ::crypto_aead_xchacha20poly1305_ietf_encrypt(bytes_of(sealed) + body, nullptr, bytes_of(plain),
                                               plain.size(), bytes_of(bound), bound.size(), nullptr,
                                               bytes_of(sealed) + nonce, key.secret.data());
  std::string text(::sodium_base64_encoded_len(sealed.size(), kEncoding), '\0');
  ::sodium_bin2base64(text.data(), text.size(), bytes_of(sealed), sealed.size(), kEncoding);
  text.pop_back();  // the zero that ends it
  return text;
}

TextPoint StateSeal::open(std::string_view token, const std::string& owner, int64_t now) const {
  std::string sealed(token.size(), '\0');
  size_t length = 0;
  if (::sodium_base642bin(bytes_of(sealed), sealed.size(), token.data(), token.size(), nullptr, &length,
                          nullptr, kEncoding) != 0)
    fail("{}", kForeign);
  sealed.resize(length);
  constexpr size_t kHead = 1 + kKeyIdBytes + kNonceBytes;
  if (sealed.size() < kHead + sizeof(int64_t) + kTagBytes ||
      static_cast<unsigned char>(sealed[0]) != kVersion)
    fail("{}", kForeign);
  const std::string key_id = sealed.substr(1, kKeyIdBytes);
  const auto key = std::find_if(keys_.begin(), keys_.end(), [&](const Key& one) { return one.id == key_id; });
  if (key == keys_.end()) fail("{}", kForeign);
  std::string plain(sealed.size() - kHead - kTagBytes, '\0');
  const std::string bound = bound_to(key_id, owner);
  if (::crypto_aead_xchacha20poly1305_ietf_decrypt(
          bytes_of(plain), nullptr, nullptr, bytes_of(sealed) + kHead, sealed.size() - kHead, bytes_of(bound),
          bound.size(), bytes_of(sealed) + 1 + kKeyIdBytes, key->secret.data()) != 0)
    fail("{}", kForeign);
  int64_t expires;
  std::memcpy(&expires, plain.data(), sizeof expires);
  if (now >= expires) fail("the state token expired {} seconds ago", now - expires);
  return decode_point(model_, std::string_view(plain).substr(sizeof expires), "the state token");
}

}  // namespace harmonic
