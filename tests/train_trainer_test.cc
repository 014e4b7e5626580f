// A whole run: what its evaluations measure, and how it ends.
#include "harmonic/train/trainer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

class WholeRun : public DataTest {
 protected:
  // How the run in the folder ends when it is resumed and asked to stop before it goes on; in a child, since
  // handlers and the flag are the process's.
  bool asked_to_stop_ends_as(Trainer::End end, const RunConfig& config) {
    const pid_t child = ::fork();
    if (child == 0) {
      SmallRun run(config, folder_ / "run");
      run.resume();
      watch_for_interrupts();
      ::raise(SIGTERM);
      ::_exit(run.trainer.run() == end ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  // The last held-out figure in metrics.jsonl; -1 where there is none.
  double last_valid_bits() const {
    const std::string metrics = read_file(folder_ / "run" / "metrics.jsonl");
    const size_t at = metrics.rfind("{\"step\"");
    return parse_json(metrics.substr(at), "metrics").value("valid_bits_per_token", -1.0);
  }
};

TEST_F(WholeRun, EvaluatesWithTheStateCarriedWhereTrainingCarriesIt) {
  for (const bool carry : {false, true}) {
    RunConfig config = small_run();
    config.train.loader = "streams";
    config.train.carry_state = carry;
    config.train.eval_every = 12;
    SmallRun run(config, folder_ / "run");
    run.trainer.run();
    Inference inference(*run.model, run.pool);
    EvaluationOptions options;
    options.length = config.train.seq_len;
    const double cold = evaluate(inference, *run.data.valid, options).bits_per_token();
    options.state = EvaluationState::carry;
    const double carried = evaluate(inference, *run.data.valid, options).bits_per_token();
    ASSERT_NE(cold, carried);
    EXPECT_EQ(last_valid_bits(), carry ? carried : cold);
    std::filesystem::remove_all(folder_ / "run");
  }
}

TEST_F(WholeRun, IsFinishedWhenItsLastStepIsSavedThoughItWasAskedToStop) {
  RunConfig config = small_run();
  SmallRun(config, folder_ / "run").trainer.run();
  EXPECT_TRUE(asked_to_stop_ends_as(Trainer::End::finished, config));
  // An evaluation that is still to be made does not change that.
  config.train.eval_every = 12;
  std::filesystem::remove_all(folder_ / "run");
  SmallRun(config, folder_ / "run").trainer.run();
  std::filesystem::remove(folder_ / "run" / "metrics.jsonl");
  EXPECT_TRUE(asked_to_stop_ends_as(Trainer::End::finished, config));
  SmallRun(config, folder_ / "run").resume().trainer.run();
  EXPECT_GT(last_valid_bits(), 0) << "resumed, the run makes up for it";
  config.train.steps = 13;
  EXPECT_TRUE(asked_to_stop_ends_as(Trainer::End::interrupted, config));
}

}  // namespace
}  // namespace harmonic
