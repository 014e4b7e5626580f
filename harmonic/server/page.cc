#include "harmonic/server/page.h"

#include <fmt/format.h>
#include <sodium.h>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

// The hash by which a policy allows the one element of this name: 'sha256-...'.
std::string hash_of_element(std::string_view name) {
  const std::string opens = fmt::format("<{}>", name), closes = fmt::format("</{}>", name);
  const size_t begin = kPage.find(opens) + opens.size(), end = kPage.find(closes);
  HARMONIC_ASSERT(begin < end && end != kPage.npos);
  unsigned char hash[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(hash, reinterpret_cast<const unsigned char*>(kPage.data()) + begin, end - begin);
  char text[sodium_base64_ENCODED_LEN(sizeof hash, sodium_base64_VARIANT_ORIGINAL)];
  sodium_bin2base64(text, sizeof text, hash, sizeof hash, sodium_base64_VARIANT_ORIGINAL);
  return fmt::format("'sha256-{}'", text);
}

}  // namespace

HttpResponse page_response() {
  static const std::string policy = fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; form-action "
      "'none'; "
      "frame-ancestors 'none'",
      hash_of_element("script"), hash_of_element("style"));
  return {200,
          "text/html; charset=utf-8",
          std::string(kPage),
          {{"Content-Security-Policy", policy},
           {"X-Content-Type-Options", "nosniff"},
           {"Referrer-Policy", "no-referrer"},
           {"Cross-Origin-Opener-Policy", "same-origin"},
           {"Cache-Control", "no-cache"}}};
}

}  // namespace harmonic
