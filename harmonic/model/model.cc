#include "harmonic/model/model.h"

#include <numeric>
#include <set>

#include "harmonic/base/checked.h"

namespace harmonic {
namespace {

// Standard deviation 0.02: small beside what the layers add, so that the first steps shape it.
const Initial kEmbeddingInitial = Initial::uniform(0.02 * 1.7320508075688772);

}  // namespace

Model::Model(const ModelConfig& config, const Backend& backend, bool trained, MixerFactory mixers)
    : config_(config), backend_(backend), layout_(backend.dtype) {
  config_.validate();
  const int64_t channels = config_.d_model;
  embed_ =
      &parameters_.add("embed.weight", {config_.vocab_size, channels}, Role::embedding, kEmbeddingInitial);
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    const Builder builder{parameters_, layout_, work_, fmt::format("layers.{}.", i)};
    const std::string& kind = config_.mixer_of_layer(i);
    Layer layer;
    layer.mixer_norm = &builder.vector("mixer_norm.weight", channels, Initial::constant(1));
    layer.mixer = mixers(kind, config_, builder.within("mixer"));
    if (const int64_t width = config_.d_ffn(); width > 0) {
      layer.ffn_norm = &builder.vector("ffn_norm.weight", channels, Initial::constant(1));
      layer.ffn_gate = &builder.matrix("ffn.gate", width, channels);
      layer.ffn_up = &builder.matrix("ffn.up", width, channels);
      layer.ffn_down = &builder.matrix("ffn.down", channels, width);
    }
    layers_.push_back(std::move(layer));
  }
  final_norm_ = &parameters_.add("final_norm.weight", {channels}, Role::vector, Initial::constant(1));
  head_ = config_.tie_embeddings ? embed_
                                 : &parameters_.add("head.weight", {config_.vocab_size, channels},
                                                    Role::embedding, kEmbeddingInitial);
  embed_->plain = embed_ != head_;
  parameters_.allocate(backend, trained);
}

std::vector<int64_t> Model::strides() const {
  std::set<int64_t> strides = {1};
  for (const Work::Part& part : work_.parts) strides.insert(part.stride);
  return {strides.begin(), strides.end()};
}

int64_t Model::period() const {
  int64_t period = 1;
  for (const int64_t stride : strides()) period = std::lcm(period, stride);
  return period;
}

void Model::pack(Context& context, DType format) {
  HARMONIC_ASSERT(!parameters_.trained());
  if (packed_) return;
  packed_ = true;
  // The reference's packed forms are copies.
  const DType dtype = backend_.dtype == DType::f32 ? format : backend_.dtype;
  if (backend_.device != Device::cpu && format == DType::f32) return;  // whose products read the values
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    if (parameters_.role(i) == Role::vector || (&p == embed_ && embed_ != head_) || p.packed) continue;
    const ArenaScope scope(context.scratch);
    Arena& memory = p.plain ? context.scratch : parameters_.memory();
    const int64_t size = packed_weight_size(p.value.rows, p.value.cols, dtype == format ? format : DType::f32,
                                            backend_.device);
    Tensor packed = memory.tensor(1, size, dtype);
    packed.device = backend_.device;
    backend_(context, PackWeight{p.value, packed, format});
    if (p.plain) continue;  // rounded alone
    p.packed = packed;
    parameters_.drop_value(p);
  }
}

Variable Model::embedded(Tape& tape, const Tensor& tokens) const { return embedding(tape, tokens, *embed_); }

Variable Model::norm(Tape& tape, const Variable& x, const Parameter& weight) const {
  return rms_norm(tape, x, weight, nullptr, config_.norm_epsilon);
}

Variable Model::mixer_input(Tape& tape, int64_t i, const Variable& x) const {
  return norm(tape, x, *layers_.at(static_cast<size_t>(i)).mixer_norm);
}

Variable Model::mixed(Step& step, int64_t i, const Variable& input) const {
  return layers_.at(static_cast<size_t>(i)).mixer->forward(step, input);
}

Variable Model::after_mixer(Tape& tape, int64_t i, const Variable& x, const Variable& mix) const {
  const Layer& layer = layers_.at(static_cast<size_t>(i));
  const Variable y = add(tape, mix, x);
  if (!layer.ffn_norm) return y;
  const Variable n = rms_norm_for_products(tape, y, *layer.ffn_norm, config_.norm_epsilon);
  const Variable inner =
      gate(tape, linear(tape, n, *layer.ffn_up), linear(tape, n, *layer.ffn_gate), GateKind::silu);
  return linear(tape, inner, *layer.ffn_down, {.base = &y});
}

Variable Model::forward(Step& step, const Tensor& tokens) const {
  Tape& tape = step.tape();
  Variable x = embedded(tape, tokens);
  for (int64_t i = 0; i < config_.n_layers; ++i)
    x = after_mixer(tape, i, x, mixed(step, i, mixer_input(tape, i, x)));
  return norm(tape, x, *final_norm_);
}

Tensor Model::logits(Tape& tape, const Tensor& hidden, MemoryUse use) const {
  // What stays on a device has rows that begin where it reads several numbers at once.
  const int64_t vocabulary = head_->value.rows;
  const int64_t stride = use == MemoryUse::tensors ? round_up(vocabulary, 16) : vocabulary;
  const Tensor y = tape.memory().tensor(hidden.rows, stride, tape.dtype(), use).columns(0, vocabulary);
  tape.run(Linear{hidden, head_->value, head_->packed, {}, {}, false, y});
  return y;
}

}  // namespace harmonic
