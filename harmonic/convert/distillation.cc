#include "harmonic/convert/distillation.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "harmonic/base/error.h"
#include "harmonic/eval/batch_pass.h"

namespace harmonic {
namespace {

// A model's texts from their beginning, without gradients; memory is the backend's.
struct TeacherPass {
  TeacherPass(const Model& teacher, Context& context, Arena& memory, const Segments& segments)
      : tape(teacher.backend(), context, memory, nullptr),
        in(make_state_rows_without_caches(memory, teacher.state_layout(), segments.count)),
        out(make_state_rows_without_caches(memory, teacher.state_layout(), segments.count)),
        step(tape, segments, in, out) {}

  Tape tape;
  StateRows in, out;
  Step step;
};

double mean_square(const Tensor& x) {
  double sum = 0;
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < x.cols; ++c) {
      const double number = x.dtype == DType::f64 ? x.row<double>(r)[c] : x.row<float>(r)[c];
      sum += number * number;
    }
  return sum / static_cast<double>(std::max<int64_t>(1, x.size()));
}

class LayerObjective : public Objective {
 public:
  LayerObjective(const Model& teacher, const Model& student, const Batch& sample, ThreadPool& pool)
      : teacher_(teacher) {
    for (int64_t i = 0; i < student.config().n_layers; ++i)
      if (student.config().mixer_of_layer(i) != teacher.config().mixer_of_layer(i)) layers_.push_back({i, 0});
    if (layers_.empty())
      fail_usage(
          "objective \"layers\": the student has the teacher's mixers; convert --replace changes them");
    const Backend& backend = teacher.backend();
    Arena memory(backend.memory), scratch(backend.memory);
    Context context{pool, scratch};
    const BatchPiece piece = piece_of(sample, 0, sample.rows(), memory);
    TeacherPass pass(teacher_, context, memory, piece.segments);
    const Tensor tokens{
        const_cast<int32_t*>(sample.tokens.data()), 1, sample.rows(), sample.rows(), DType::i32, Device::cpu};
    follow(pass, tokens, [&](size_t layer, const Tensor&, const Tensor& output) {
      backend.synchronize();
      layers_[layer].mean_square = mean_square(output);
    });
  }

  void run(const ObjectivePass& pass) const override {
    std::memset(pass.losses.data, 0, static_cast<size_t>(pass.losses.size() * size_of(pass.losses.dtype)));
    TeacherPass teacher(teacher_, pass.context, pass.memory, pass.segments);
    follow(teacher, pass.tokens, [&](size_t layer, const Tensor& input, const Tensor& output) {
      match(pass, layers_[layer], input, output);
    });
  }
  LossUnit unit() const override { return LossUnit::other; }
  bool reaches(const Parameter& parameter) const override {
    return std::any_of(layers_.begin(), layers_.end(), [&](const Layer& layer) {
      return parameter.name.starts_with(fmt::format("layers.{}.mixer.", layer.number));
    });
  }
  bool takes_pieces() const override { return false; }
  int64_t longest_text() const override { return teacher_.config().longest_text(); }

 private:
  struct Layer {
    int64_t number;
    double mean_square;  // of what the teacher's mixer gives in the sample
  };

  // Shows see(layer, input, output) what the teacher's mixer reads and gives, of each replaced layer in turn.
  template <typename See>
  void follow(TeacherPass& pass, const Tensor& tokens, const See& see) const {
    Variable x = teacher_.embedded(pass.tape, tokens);
    size_t next = 0;
    for (int64_t i = 0; next < layers_.size(); ++i) {
      const Variable input = teacher_.mixer_input(pass.tape, i, x);
      const Variable mix = teacher_.mixed(pass.step, i, input);
      if (layers_[next].number == i) see(next++, input.value, mix.value);
      x = teacher_.after_mixer(pass.tape, i, x, mix);
    }
  }

  void match(const ObjectivePass& pass, const Layer& layer, const Tensor& input, const Tensor& output) const {
    const ArenaScope scope(pass.memory);
    Tape tape(pass.model.backend(), pass.context, pass.memory, &pass.gradients);
    Step step(tape, pass.segments, pass.in, pass.out, pass.d_out, pass.d_in);
    const Variable mix = pass.model.mixed(step, layer.number, {input});
    const double scale = 1 / (layer.mean_square + 1e-12) / static_cast<double>(output.cols) /
                         static_cast<double>(layers_.size());
    squared_error(tape, mix, output, pass.losses, scale, pass.loss_scale);
    tape.backward();
  }

  const Model& teacher_;
  std::vector<Layer> layers_;
};

class LogitObjective : public Objective {
 public:
  LogitObjective(const Model& teacher, double share) : teacher_(teacher), share_(share) {}

  void run(const ObjectivePass& pass) const override {
    TeacherPass teacher(teacher_, pass.context, pass.memory, pass.segments);
    const Variable theirs = teacher_.forward(teacher.step, pass.tokens);
    Tape tape(pass.model.backend(), pass.context, pass.memory, &pass.gradients);
    Step step(tape, pass.segments, pass.in, pass.out, pass.d_out, pass.d_in);
    const Variable ours = pass.model.forward(step, pass.tokens);
    linear_cross_entropy(tape, ours, pass.model.head(), pass.targets, pass.losses, pass.loss_scale,
                         {theirs.value, teacher_.head().value, share_});
    tape.backward();
  }
  LossUnit unit() const override { return share_ > 0 ? LossUnit::other : LossUnit::nats; }
  bool takes_pieces() const override { return false; }
  int64_t longest_text() const override { return teacher_.config().longest_text(); }

 private:
  const Model& teacher_;
  double share_;
};

}  // namespace

std::unique_ptr<Objective> make_distillation(const std::string& kind, const Model& teacher,
                                             const Model& student, double share, const Batch& sample,
                                             ThreadPool& pool) {
  const ModelConfig &t = teacher.config(), &s = student.config();
  if (t.vocab_size != s.vocab_size || t.d_model != s.d_model || t.n_layers != s.n_layers)
    fail_usage(
        "the student has {} tokens, width {} and {} layers, the teacher {}, {} and {}: a student is made of "
        "its teacher by harmonic convert --replace",
        s.vocab_size, s.d_model, s.n_layers, t.vocab_size, t.d_model, t.n_layers);
  if (kind == "layers") return std::make_unique<LayerObjective>(teacher, student, sample, pool);
  HARMONIC_ASSERT(kind == "teacher");
  return std::make_unique<LogitObjective>(teacher, share);
}

Batch sample_of(const TokenCorpus& texts, const Model& teacher, int64_t seq_len) {
  int64_t count = std::min(seq_len, texts.targets());
  if (const int64_t longest = teacher.config().longest_text(); longest > 0) count = std::min(count, longest);
  Batch sample;
  sample.clear();
  sample.add_sequence();
  sample.append(texts, 0, count, false, true);
  return sample;
}

}  // namespace harmonic
