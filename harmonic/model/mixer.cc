#include "harmonic/model/mixer.h"

#include "harmonic/model/harmonic_block.h"

namespace harmonic {

std::unique_ptr<Mixer> make_mixer(const std::string& kind, const ModelConfig& config,
                                  const Builder& builder) {
  if (kind == "harmonic") return make_harmonic_block(config, builder);
  fail_usage("model.mixer: this build has no mixer \"{}\"; expected \"harmonic\"", kind);
}

}  // namespace harmonic
