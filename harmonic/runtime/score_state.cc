#include "harmonic/runtime/score_state.h"

#include <sys/stat.h>

#include <cmath>
#include <cstring>

#include "harmonic/base/error.h"
#include "harmonic/base/files.h"
#include "harmonic/base/put_number.h"
#include "harmonic/runtime/stream_encoder.h"

namespace harmonic {
namespace {

constexpr std::string_view kMagic = "HSCORE1\n";
constexpr size_t kIdentityBytes = 64, kChecksumBytes = 64;
constexpr uint64_t kLongestText = 2 * StreamEncoder::kLongestPiece;

void put_text(std::string& bytes, std::string_view text) {
  put_number(bytes, static_cast<uint64_t>(text.size()));
  bytes += text;
}

// Files that are made while this lives are their owner's alone.
struct PrivateFiles {
  const mode_t before = ::umask(077);
  ~PrivateFiles() { ::umask(before); }
};

// What is left of the file; names it where it ends too early.
struct Rest {
  std::string_view bytes;
  const std::string& source;

  std::string_view take(uint64_t count) {
    if (count > bytes.size()) fail("{}: damaged: a state of scoring that ends too early", source);
    const std::string_view part = bytes.substr(0, count);
    bytes.remove_prefix(count);
    return part;
  }
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string text() {
    const auto size = number<uint64_t>();
    if (size > kLongestText) fail("{}: damaged: a text of {} bytes", source, size);
    return std::string(take(size));
  }
};

}  // namespace

void save_score_state(const std::filesystem::path& path, const ScoreState& state,
                      const std::string& identity) {
  HARMONIC_ASSERT(identity.size() == kIdentityBytes);
  std::string bytes(kMagic);
  bytes += identity;
  put_number(bytes, static_cast<uint8_t>(state.begun));
  put_number(bytes, state.line.line);
  put_number(bytes, state.line.bytes);
  put_number(bytes, state.line.bits);
  put_number(bytes, state.outliers.count);
  put_number(bytes, state.outliers.mean);
  put_number(bytes, state.outliers.variance);
  put_text(bytes, state.waiting);
  put_text(bytes, state.line.text);
  bytes += encode_point(state.point);
  const PrivateFiles mode;  // it holds text
  write_file(path, bytes + sha256(bytes));
}

std::optional<ScoreState> load_score_state(const std::filesystem::path& path, const Model& model,
                                           const std::string& identity) {
  if (!std::filesystem::exists(path)) return {};
  const std::string source = path.string(), file = read_file(path);
  if (!file.starts_with(kMagic) || file.size() < kMagic.size() + kIdentityBytes + kChecksumBytes)
    fail("{}: expected a state that harmonic score --state wrote", source);
  Rest rest{std::string_view(file).substr(0, file.size() - kChecksumBytes), source};
  if (sha256(rest.bytes) != std::string_view(file).substr(rest.bytes.size()))
    fail("{}: damaged: its checksum is not that of its content; remove it to begin anew", source);
  rest.take(kMagic.size());
  if (rest.take(kIdentityBytes) != identity)
    fail("{}: the state of another model; it is of use only to the exact model that made it", source);
  ScoreState state;
  state.begun = rest.number<uint8_t>() != 0;
  state.line.line = rest.number<int64_t>();
  state.line.bytes = rest.number<int64_t>();
  state.line.bits = rest.number<double>();
  state.outliers.count = rest.number<int64_t>();
  state.outliers.mean = rest.number<double>();
  state.outliers.variance = rest.number<double>();
  if (state.line.line < 0 || state.line.bytes < 0 || !std::isfinite(state.line.bits) ||
      state.outliers.count < 0 || !std::isfinite(state.outliers.mean) || !(state.outliers.variance >= 0))
    fail("{}: damaged: sums that no text has", source);
  state.waiting = rest.text();
  state.line.text = rest.text();
  state.point = decode_point(model, rest.bytes, source);
  return state;
}

}  // namespace harmonic
