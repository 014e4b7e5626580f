// harmonic distill: a student with layers of constant state learns from the model it was made of, phase after
// phase, each a run of the trainer.
#include <map>

#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/convert/distill_folder.h"
#include "harmonic/convert/distill_plan.h"
#include "harmonic/convert/distillation.h"
#include "harmonic/convert/llama.h"
#include "harmonic/convert/surgery.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/model/weights.h"
#include "harmonic/train/run_folder.h"
#include "harmonic/train/trainer.h"

namespace harmonic {
namespace {

class Distill : public Command {
 public:
  void declare(Options& options) override {
    options.add("--teacher", &teacher_, "model folder that is learned from").placeholder("DIR").required();
    options
        .add("--student", &student_,
             "model folder to begin with, which harmonic convert --replace made of it; by default all its "
             "attention is replaced as that does")
        .placeholder("DIR")
        .not_empty();
    options.add("--config", &config_, "the phases: [data], [train], [phase.1], ...")
        .placeholder("TOML")
        .required();
    options.add("--data", &data_, "texts to train on, in place of data.train of every phase")
        .placeholder("PATH...")
        .not_empty();
    options.add("--valid", &valid_, "held-out texts, in place of data.valid of every phase")
        .placeholder("PATH...")
        .not_empty();
    options.add("--out", &out_, "folder of the student's model and, in phase-N, of the phases' runs")
        .placeholder("DIR")
        .required();
    options.add("--resume", &resume_, "go on in --out where it was left");
    options.add_settings(&overrides_, Options::Environment::does_not);
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    expect_another_folder("--teacher", teacher_);
    expect_another_folder("--student", student_);
    LoadedModel teacher = load_model_folder(teacher_, cpu_backend());
    LoadedModel student = first_student(teacher);
    check_finite(teacher.model->parameters(), teacher_ + "/model.safetensors");
    if (!student_.empty()) check_finite(student.model->parameters(), student_ + "/model.safetensors");
    if (student.tokenizer->hash() != teacher.tokenizer->hash())
      fail("{}: another tokenizer than that of {}; expected a student that was made of its teacher", student_,
           teacher_);
    expect_made_of(student.model->config(), teacher.model->config());
    const std::vector<DistillPhase> plan =
        load_distill_plan(config_, student.model->config(), data_, valid_, overrides_);
    if (const Backend& backend = context.backend(precision_of(plan)); &backend != &cpu_backend()) {
      teacher = load_model_folder(teacher_, backend);
      student = first_student(teacher);
    }
    DistillFolder folder(out_, resume_, {identity_of(*teacher.model), identity_of(*student.model)});
    ThreadPool pool(context.threads);
    std::vector<Stage> stages = take_up(plan, folder);
    for (Stage& stage : stages) prepare(stage, *teacher.model, *student.model, pool);
    folder.create();
    for (size_t n = 1; n <= stages.size(); ++n) {
      folder.enter_phase(n, student.model->parameters().hash());
      if (!take(stages[n - 1], folder.phase(n), *student.model, pool)) {
        log("stopped in phase {}; harmonic distill --resume with the same arguments goes on", n);
        return 130;
      }
    }
    save_model_folder(out_, *student.model, *student.tokenizer, teacher.chat_template);
    log("done: the student is in {}", out_);
    return 0;
  }

 private:
  // A phase, and what is there of it.
  struct Stage {
    const DistillPhase& phase;
    std::optional<RunFolder> run;  // where it has begun
    bool is_done = false;
    // Of a phase that is not done.
    std::shared_ptr<const TrainingData> data;
    std::unique_ptr<Objective> distance;  // from the teacher; null for the text itself
    const Objective& objective() const { return distance ? *distance : text_objective(); }
  };

  // Of what a model computes: its weights, and how they are used.
  static std::string identity_of(const Model& model) {
    return sha256(model.parameters().hash() + model.config().to_json());
  }

  void expect_another_folder(const char* flag, const std::string& model) const {
    std::error_code ignored;
    if (!model.empty() && std::filesystem::equivalent(out_, model, ignored))
      fail_usage("--out {}: is the folder of {}, which would be written over; name another", out_, flag);
  }

  // The student has its teacher's layers, but for attention that gave way.
  void expect_made_of(const ModelConfig& student, const ModelConfig& teacher) const {
    if (student.n_layers != teacher.n_layers) return;  // told where shapes are compared
    for (int64_t i = 0; i < student.n_layers; ++i)
      if (student.mixer_of_layer(i) != teacher.mixer_of_layer(i) && teacher.mixer_of_layer(i) != "attention")
        fail_usage(
            "--student {}: layer {} is {}, the teacher's {}; expected a student that harmonic convert "
            "--replace "
            "made of {}",
            student_, i, student.mixer_of_layer(i), teacher.mixer_of_layer(i), teacher_);
  }

  // Of the products of teacher and student, in all phases.
  std::string precision_of(const std::vector<DistillPhase>& plan) const {
    const std::string& first = plan.front().config.train.precision;
    for (const DistillPhase& phase : plan)
      if (phase.config.train.precision != first)
        fail_usage("{}: phase {}: train.precision = \"{}\": phase {} has \"{}\", and all have the same",
                   config_, phase.name, phase.config.train.precision, plan.front().name, first);
    return first;
  }

  LoadedModel first_student(const LoadedModel& teacher) const {
    if (!student_.empty()) return load_model_folder(student_, teacher.model->backend(), true);
    SurgeryOptions options;
    options.trained = true;
    return {replace_attention(*teacher.model, options).model,
            load_folder_tokenizer(teacher_, teacher.model->config())};
  }

  // A phase that others went on from must be what they went on from.
  std::vector<Stage> take_up(const std::vector<DistillPhase>& plan, const DistillFolder& folder) const {
    const size_t begun = folder.phases_begun();
    if (begun > plan.size())
      fail_usage("{}: has {} phases, and {} are there in {}; leave them in the file, or name another --out",
                 config_, plan.size(), begun, out_);
    std::vector<Stage> stages;
    for (const DistillPhase& phase : plan) {
      const RunConfig& config = phase.config;
      Stage& stage = stages.emplace_back(Stage{phase, {}, false, {}, {}});
      if (stages.size() > begun) continue;
      const std::optional<Checkpoint>& checkpoint =
          stage.run.emplace(folder.phase(stages.size()), true).checkpoint();
      const int64_t done = checkpoint ? checkpoint->record.step : 0, total = config.train.total_steps();
      if (checkpoint) naming(phase, [&] { check_same_run(*checkpoint, config); });
      stage.is_done = done == total;
      if (!stage.is_done && stages.size() < begun)
        fail_usage(
            "{}: phase {} has {} steps in it and has taken {} as far as its checkpoints can be read, and "
            "phase {} "
            "went on from there; leave it as it was, put its last checkpoint back, or remove the phases "
            "after "
            "it from {} to train them again",
            config_, phase.name, total, done, stages.size() + 1, out_);
    }
    return stages;
  }

  // All that can be refused is refused before the first step of the first phase, which may be hours before.
  void prepare(Stage& stage, const Model& teacher, Model& student, ThreadPool& pool) {
    if (stage.is_done) return;
    const TrainConfig& train = stage.phase.config.train;
    stage.data = texts_of(stage.phase.config.data, pool);
    const TokenCorpus& texts = stage.data->train;
    naming(stage.phase, [&] {
      if (train.objective != "text")
        stage.distance = make_distillation(train.objective, teacher, student, train.teacher_share,
                                           sample_of(texts, teacher, train.seq_len), pool);
      Learner(student, stage.phase.config, texts, pool, stage.objective());
    });
  }

  // What goes wrong in act() is of this phase.
  template <typename Act>
  static void naming(const DistillPhase& phase, const Act& act) {
    try {
      act();
    } catch (const Error& error) {
      throw Error(fmt::format("phase {}: {}", phase.name, error.what()), error.kind());
    }
  }

  // Phases with the same [data] share it.
  std::shared_ptr<const TrainingData> texts_of(DataConfig config, ThreadPool& pool) {
    std::shared_ptr<const TrainingData>& texts = texts_[to_toml(values_of(config.fields()))];
    if (!texts) texts = std::make_shared<const TrainingData>(load_training_data(config, teacher_, pool));
    return texts;
  }

  // Leaves the student as the phase does. False when it was interrupted.
  static bool take(Stage& stage, const std::filesystem::path& path, Model& student, ThreadPool& pool) {
    const RunConfig& config = stage.phase.config;
    if (!stage.run) stage.run.emplace(path, false);
    const std::optional<Checkpoint>& checkpoint = stage.run->checkpoint();
    if (stage.is_done) {
      load_weights(checkpoint->folder / "model.safetensors", student.parameters());
      log("phase {}: done before", stage.phase.name);
      return true;
    }
    Trainer trainer(config, student, *stage.data, path, pool, stage.objective());
    if (checkpoint) trainer.resume(*checkpoint);
    log("phase {}: {}, {} trained; {} steps, of which {} are done; products in {}", stage.phase.name,
        describe(config.train.objective), config.train.only, trainer.learner().total_steps(),
        trainer.learner().steps_done(), products_of(student.backend()));
    return trainer.run() == Trainer::End::finished;
  }

  static std::string_view describe(const std::string& objective) {
    if (objective == "layers") return "the replaced layers' outputs";
    return objective == "teacher" ? "the teacher's logits" : "the text's cross-entropy";
  }

  std::string teacher_, student_, config_, out_;
  std::vector<std::string> data_, valid_;
  std::vector<Override> overrides_;
  bool resume_ = false;
  std::map<std::string, std::shared_ptr<const TrainingData>> texts_;  // by [data]
};

const Registered<Distill> registered("distill", "train a converted model on what its source gives");

}  // namespace
}  // namespace harmonic
