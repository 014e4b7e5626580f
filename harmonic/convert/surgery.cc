#include "harmonic/convert/surgery.h"

#include <algorithm>
#include <cstring>

#include "harmonic/base/error.h"

namespace harmonic {
namespace {

constexpr int64_t kPaperState = 128;

ModelConfig changed_config(const ModelConfig& source, const SurgeryOptions& options,
                           std::vector<int64_t>& replaced) {
  const std::string kind = options.form == "matrix" ? "matrix" : "harmonic";
  if (source.uses("harmonic") || source.uses("matrix"))
    fail_usage("the model has layers of constant state already; convert the one that it was made of");
  ModelConfig config = source;
  config.mixer.clear();
  for (int64_t i = 0; i < source.n_layers; ++i) config.mixer.push_back(source.mixer_of_layer(i));
  const auto replace = [&](int64_t i) {
    config.mixer[static_cast<size_t>(i)] = kind;
    replaced.push_back(i);
  };
  for (const int64_t i : options.layers) {
    if (i < 0 || i >= source.n_layers)
      fail_usage("--replace: there is no layer {}; the model has layers 0 to {}", i, source.n_layers - 1);
    if (config.mixer[static_cast<size_t>(i)] != "attention")
      fail_usage("--replace: layer {} has no attention, or is named twice", i);
    replace(i);
  }
  for (int64_t i = 0; options.layers.empty() && i < source.n_layers; ++i)
    if (config.mixer[static_cast<size_t>(i)] == "attention") replace(i);
  if (replaced.empty()) fail_usage("--replace: the model has no attention to replace");
  if (!options.taus.empty()) config.harmonic.taus = options.taus;
  if (options.form == "paper") {
    config.harmonic.d_state = kPaperState;
    config.harmonic.conv_width = 0;
  }
  config.matrix.features = options.features;
  // Waves that have not come round within half the context in training would show the state turns it never
  // saw.
  const AttentionConfig& attention = source.attention;
  config.matrix.rope_wavelength =
      (attention.rope.kind == "dynamic" ? attention.rope.context : attention.context) / 2;
  if (options.window > 0) {
    if (!config.uses("attention"))
      fail_usage("--window {}: no attention stays; name the layers to replace by --replace", options.window);
    if (options.window > source.attention.context)
      fail_usage("--window {}: attention was made for {} tokens; expected no more", options.window,
                 source.attention.context);
    if (source.attention.window > 0 && options.window > source.attention.window)
      fail_usage("--window {}: the attention looks back {} tokens; expected no more", options.window,
                 source.attention.window);
    config.attention.window = options.window;
  }
  return config;
}

}  // namespace

Surgery replace_attention(const Model& source, const SurgeryOptions& options) {
  Surgery surgery;
  const ModelConfig config = changed_config(source.config(), options, surgery.replaced);
  surgery.model = std::make_unique<Model>(config, source.backend(), options.trained);
  Parameters& parameters = surgery.model->parameters();
  parameters.initialise(options.seed);
  std::vector<std::string> anew;  // prefixes of what is not copied
  if (options.from_scratch)
    for (const int64_t i : surgery.replaced) anew.push_back(fmt::format("layers.{}.mixer.", i));
  int64_t all = 0;
  for (size_t p = 0; p < source.parameters().size(); ++p) {
    const Parameter& from = source.parameters()[p];
    all += from.value.size();
    Parameter* to = parameters.find(from.name);
    const bool fresh = std::any_of(anew.begin(), anew.end(),
                                   [&](const std::string& prefix) { return from.name.starts_with(prefix); });
    if (!to || to->shape != from.shape || fresh) continue;
    HARMONIC_ASSERT(to->value.contiguous() && from.value.contiguous());
    std::memcpy(to->value.data, from.value.data,
                static_cast<size_t>(from.value.size() * size_of(from.value.dtype)));
    surgery.kept += from.value.size();
  }
  surgery.fresh = parameters.count() - surgery.kept;
  surgery.dropped = all - surgery.kept;
  return surgery;
}

}  // namespace harmonic
