// harmonic train: from texts and a configuration to a model folder.
#include "harmonic/base/interrupt.h"
#include "harmonic/base/log.h"
#include "harmonic/cli/command.h"
#include "harmonic/eval/model_folder.h"
#include "harmonic/train/run_folder.h"
#include "harmonic/train/trainer.h"

namespace harmonic {
namespace {

class Train : public Command {
 public:
  void declare(Options& options) override {
    options.add("--config", &config_, "settings of the run; with --resume those of the run by default")
        .placeholder("TOML")
        .not_empty();
    options.add("--data", &data_, "texts to train on, in place of data.train")
        .placeholder("PATH...")
        .not_empty();
    options.add("--valid", &valid_, "held-out texts, in place of data.valid")
        .placeholder("PATH...")
        .not_empty();
    options.add("--out", &out_, "folder of the run and its model").placeholder("DIR").not_empty();
    options.add("--resume", &resume_, "go on with the run in --out from its last checkpoint");
    options.add("--profile", &profile_,
                "show where the steps' time went, op by op, at the end; profile.json in --out has it too");
    options.add_settings(&overrides_);
  }

  bool uses_device() const override { return true; }

  int run(const CommandContext& context) override {
    watch_for_interrupts();
    RunConfig config = settings();
    Backend backend = context.backend(config.train.precision);  // before texts are read, which may take long
    const RunFolder folder(out_, resume_);
    const std::optional<Checkpoint>& checkpoint = folder.checkpoint();
    if (checkpoint) check_same_run(*checkpoint, config);

    ThreadPool pool(context.threads);
    const TrainingData data = load_training_data(
        config.data, checkpoint ? checkpoint->folder / "tokenizer.json" : std::filesystem::path(), pool);
    take_vocabulary(config.model, *data.tokenizer);
    Profile profile;
    if (profile_) backend.observer = &profile;
    Model model(config.model, backend, true);
    model.parameters().initialise(static_cast<uint64_t>(config.train.seed));

    Trainer trainer(config, model, data, folder.path(), pool);
    if (checkpoint) trainer.resume(*checkpoint);
    if (profile_) trainer.profile_steps(profile);
    describe(trainer, data, pool);
    const Trainer::End end = trainer.run();
    if (profile_) log("{}", profile_table(profile, trainer.profiled_steps()));
    if (end == Trainer::End::interrupted) {
      log("stopped after step {} of {}; harmonic train --resume --out {} goes on",
          trainer.learner().steps_done(), trainer.learner().total_steps(), out_);
      return 130;
    }
    log("done: the model is in {}", out_);
    return 0;
  }

 private:
  RunConfig settings() const {
    std::string path = config_;
    if (path.empty() && resume_) {
      const auto own = std::filesystem::path(out_) / "run.toml";
      if (std::filesystem::exists(own)) path = own.string();
    }
    RunConfig config = load_run_config(path, overrides_);
    if (!data_.empty()) config.data.train = data_;
    if (!valid_.empty()) config.data.valid = valid_;
    config.validate();
    if (config.train.objective != "text")
      fail_usage("train.objective = \"{}\": needs a teacher: harmonic distill trains with one",
                 config.train.objective);
    config.data = config.data.with_absolute_paths();  // run.toml goes on from any working folder
    return config;
  }

  static void describe(const Trainer& trainer, const TrainingData& data, const ThreadPool& pool) {
    const Learner& learner = trainer.learner();
    const Parameters& parameters = learner.model().parameters();
    const int64_t embeddings = parameters.count(Role::embedding);
    log("model: {} parameters and {} in embeddings, {} bytes of state; {} threads, chunks of {} tokens, "
        "products in {}",
        parameters.count() - embeddings, embeddings, learner.model().state_layout().bytes(), pool.threads(),
        learner.backpropagation().chunk_rows(), products_of(learner.model().backend()));
    if (const std::string remark = learner.remark(); !remark.empty()) log("{}", remark);
    if (!data.valid) log("no held-out texts (--valid): training goes without evaluation");
    if (data.valid && !trainer.evaluates())
      warn("the held-out texts are not used: train.eval_every is 0, never");
    if (learner.steps_done() > 0)
      log("resuming after step {} of {}", learner.steps_done(), learner.total_steps());
  }

  std::string config_, out_ = "run";
  std::vector<std::string> data_, valid_;
  bool resume_ = false, profile_ = false;
  std::vector<Override> overrides_;
};

const Registered<Train> registered("train", "train a model on texts");

}  // namespace
}  // namespace harmonic
