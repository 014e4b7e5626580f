// Files of all kinds through harmonic pack's code and back, with other threads and other vector instructions.
#include "benchmarks/serve/figures.h"
#include "benchmarks/serve/parts.h"
#include "harmonic/base/random.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/ops/simd_targets.h"
#include "harmonic/runtime/pack.h"
#include "harmonic/runtime/text_point.h"

namespace harmonic {
namespace {

// Empty and short ones, text, zeros, noise, halves of characters, runs, and mixtures of them.
std::string odd_file(int64_t number) {
  const Random random(13, static_cast<uint64_t>(number));
  uint64_t at = 0;
  const auto roll = [&](uint64_t below) { return random.bits(at++) % below; };
  std::string bytes;
  for (uint64_t parts = number % 7 == 0 ? roll(2) : 1 + roll(4); parts > 0; --parts) {
    const uint64_t length = roll(600);
    const std::string words[] = {"the ", "a\n", "\xc3\xa9t\xc3\xa9 ", "1990s, ", "\t}\r\n"};
    switch (roll(6)) {
      case 0:
        for (uint64_t i = 0; i < length; ++i) bytes += static_cast<char>(roll(256));
        break;
      case 1:
        bytes.append(length, '\0');
        break;
      case 2:
        bytes.append(length, static_cast<char>(roll(256)));
        break;
      case 3:
        bytes += std::string("\xf0\x9f\x98").substr(0, 1 + roll(3));
        break;
      default:
        for (uint64_t i = 0; i < length / 4; ++i) bytes += words[roll(5)];
    }
  }
  return bytes;
}

struct Packing {
  Packing(const LoadedModel& loaded, int threads) : pool(threads), inference(*loaded.model, pool) {
    loaded.model->pack(inference.context());
  }
  ThreadPool pool;
  Inference inference;
};

Packer::Read reading(std::string_view& rest) {
  return [&rest](int64_t most) {
    const std::string_view part = rest.substr(0, static_cast<size_t>(most));
    rest.remove_prefix(part.size());
    return std::string(part);
  };
}

std::string pass(Packer& packer, std::string_view bytes, bool unpacks) {
  std::string out;
  const Packer::Write write = [&](std::string_view piece) { out += piece; };
  unpacks ? packer.unpack(reading(bytes), write, "a packed file") : packer.pack(reading(bytes), write);
  return out;
}

}  // namespace

void run_odd_files(const LoadOptions& options, int64_t files) {
  const LoadedModel one = load_model_folder(options.model, cpu_backend());
  const LoadedModel two = load_model_folder(options.model, cpu_backend());
  const std::string identity = identity_of(*one.model);
  Packing alone(one, 1), together(two, 2);
  Packer packs(alone.inference, *one.tokenizer, identity, 512),
      unpacks(together.inference, *two.tokenizer, identity, 512);
  const std::vector<std::string_view> targets = simd_target_names();
  for (int64_t i = 0; i < files; ++i) {
    const std::string bytes = odd_file(i);
    std::string packed;
    {
      const UseSimdTarget target(targets.back());
      packed = pass(packs, bytes, false);
    }
    const UseSimdTarget target(targets.front());
    if (pass(unpacks, bytes, false) != packed) fail("file {}: packed otherwise by two threads", i);
    if (pass(unpacks, packed, true) != bytes) fail("file {}: did not come back", i);
  }
  show(fmt::format("{} odd files packed by 1 thread ({}), packed alike and unpacked by 2 ({})", files,
                   targets.back(), targets.front()),
       "exact", "exact", Verdict::holds);
}

}  // namespace harmonic
