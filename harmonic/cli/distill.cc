// harmonic distill: a student with layers of constant state learns from the model it was made of, phase after
// phase, each a run of the trainer.
#include "harmonic/base/files.h"
#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/convert/distill_plan.h"
#include "harmonic/convert/distillation.h"
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

  int run(const CommandContext& context) override {
    namespace fs = std::filesystem;
    watch_for_interrupts();
    const LoadedModel teacher = load_model_folder(teacher_, cpu_backend());
    LoadedModel student = first_student(teacher);
    if (student.tokenizer->hash() != teacher.tokenizer->hash())
      fail("{}: another tokenizer than that of {}; expected a student that was made of its teacher", student_,
           teacher_);
    const std::vector<DistillPhase> plan =
        load_distill_plan(config_, student.model->config(), data_, valid_, overrides_);
    std::error_code ignored;
    if (!resume_ && fs::exists(out_, ignored) && !fs::is_empty(out_, ignored))
      fail_usage("--out {}: is there and not an empty folder; go on with it by --resume, or name another",
                 out_);
    fs::create_directories(out_, ignored);
    check_same_models(*teacher.model, *student.model);
    ThreadPool pool(context.threads);
    for (const DistillPhase& phase : plan) {
      if (!take(phase, *teacher.model, student, pool)) {
        log("stopped in phase {}; harmonic distill --resume with the same arguments goes on", phase.name);
        return 130;
      }
    }
    save_model_folder(out_, *student.model, *student.tokenizer, teacher.chat_template);
    log("done: the student is in {}", out_);
    return 0;
  }

 private:
  LoadedModel first_student(const LoadedModel& teacher) const {
    if (!student_.empty()) return load_model_folder(student_, cpu_backend(), true);
    SurgeryOptions options;
    options.trained = true;
    return {replace_attention(*teacher.model, options).model,
            load_folder_tokenizer(teacher_, teacher.model->config())};
  }

  // What is resumed has learned from the same teacher, and began as the same student.
  void check_same_models(const Model& teacher, const Model& student) const {
    const std::filesystem::path path = std::filesystem::path(out_) / "distill.json";
    const Json models = {{"teacher_sha256", teacher.parameters().hash()},
                         {"student_sha256", student.parameters().hash()}};
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
      write_file(path, models.dump(2) + "\n");
      return;
    }
    const Json before = parse_json(read_file(path, 1 << 20), path.string());
    for (const auto& [which, flag] :
         {std::pair("teacher_sha256", "--teacher"), {"student_sha256", "--student"}})
      if (!before.is_object() || before.value(which, Json()) != models.at(which))
        fail_usage(
            "{}: not the model that the distillation in {} began with; name that one, or another --out", flag,
            out_);
  }

  // Leaves the student as the phase does. False when it was interrupted.
  bool take(const DistillPhase& phase, const Model& teacher, LoadedModel& student, ThreadPool& pool) const {
    namespace fs = std::filesystem;
    const RunConfig& config = phase.config;
    backend_for("cpu", config.train.precision);  // throws where the cpu has no such products
    const fs::path path = fs::path(out_) / fmt::format("phase-{}", phase.name);
    std::error_code ignored;
    const RunFolder folder(path, resume_ && fs::exists(path, ignored));
    const std::optional<Checkpoint>& checkpoint = folder.checkpoint();
    if (checkpoint) {
      check_same_run(*checkpoint, config);
      if (checkpoint->record.step == config.train.total_steps()) {
        load_weights(checkpoint->folder / "model.safetensors", student.model->parameters());
        log("phase {}: done before", phase.name);
        return true;
      }
    }
    const TrainingData data = load_training_data(config.data, teacher_, pool);
    std::unique_ptr<Objective> distance;
    if (config.train.objective != "text")
      distance =
          make_distillation(config.train.objective, teacher, *student.model, config.train.teacher_share);
    Trainer trainer(config, *student.model, data, folder.path(), pool,
                    distance ? *distance : text_objective());
    if (checkpoint) trainer.resume(*checkpoint);
    log("phase {}: {}, {} trained; {} steps, of which {} are done", phase.name,
        describe(config.train.objective), config.train.only, trainer.learner().total_steps(),
        trainer.learner().steps_done());
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
};

const Registered<Distill> registered("distill", "train a converted model on what its source gives");

}  // namespace
}  // namespace harmonic
