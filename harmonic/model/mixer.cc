#include "harmonic/model/mixer.h"

#include "harmonic/model/harmonic_block.h"
#include "harmonic/model/mamba.h"

namespace harmonic {

std::unique_ptr<Mixer> make_mixer(const std::string& kind, const ModelConfig& config,
                                  const Builder& builder) {
  if (kind == "harmonic") return make_harmonic_block(config, builder);
  if (kind == "mamba") return make_mamba(config, builder);
  fail_usage("model.mixer: this build has no mixer \"{}\"; expected \"harmonic\" or \"mamba\"", kind);
}

}  // namespace harmonic
