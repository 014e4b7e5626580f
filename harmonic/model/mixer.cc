#include "harmonic/model/mixer.h"

#include "harmonic/model/attention.h"
#include "harmonic/model/harmonic_block.h"
#include "harmonic/model/mamba.h"
#include "harmonic/model/matrix.h"

namespace harmonic {

std::unique_ptr<Mixer> make_mixer(const std::string& kind, const ModelConfig& config,
                                  const Builder& builder) {
  if (kind == "attention") return make_attention(config, builder);
  if (kind == "mamba") return make_mamba(config, builder);
  if (kind == "matrix") return make_matrix(config, builder);
  HARMONIC_ASSERT(kind == "harmonic");
  return make_harmonic_block(config, builder);
}

}  // namespace harmonic
