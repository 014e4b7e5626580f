#include "harmonic/model/mixer.h"

#include "harmonic/model/harmonic_block.h"
#include "harmonic/model/mamba.h"

namespace harmonic {

void check_mixer(const std::string& kind) {
  if (kind != "harmonic" && kind != "mamba")
    fail_usage("model.mixer: this build has no mixer \"{}\"; expected \"harmonic\" or \"mamba\"", kind);
}

std::unique_ptr<Mixer> make_mixer(const std::string& kind, const ModelConfig& config,
                                  const Builder& builder) {
  check_mixer(kind);
  return kind == "mamba" ? make_mamba(config, builder) : make_harmonic_block(config, builder);
}

}  // namespace harmonic
