// A whole run: what its evaluations measure, and how it ends.
#include "harmonic/train/trainer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "harmonic/base/interrupt.h"
#include "harmonic/base/json.h"
#include "train_fixture.h"

namespace harmonic {
namespace {

class WholeRun : public DataTest {
 protected:
  // The exit status of a child in which the program has been asked to stop and `body` has run: handlers and
  // the flag are the process's.
  static int interrupted_status(const std::function<int()>& body) {
    const pid_t child = ::fork();
    if (child == 0) {
      watch_for_interrupts();
      ::raise(SIGTERM);
      ::_exit(body());
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
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
  const auto ends_as = [&](Trainer::End end) {
    return interrupted_status(
        [&] { return SmallRun(config, folder_ / "run").resume().trainer.run() == end ? 0 : 1; });
  };
  EXPECT_EQ(ends_as(Trainer::End::finished), 0);
  // An evaluation that is still to be made does not change that.
  config.train.eval_every = 12;
  std::filesystem::remove_all(folder_ / "run");
  SmallRun(config, folder_ / "run").trainer.run();
  std::filesystem::remove(folder_ / "run" / "metrics.jsonl");
  EXPECT_EQ(ends_as(Trainer::End::finished), 0);
  SmallRun(config, folder_ / "run").resume().trainer.run();
  EXPECT_GT(last_valid_bits(), 0) << "resumed, the run makes up for it";
  config.train.steps = 13;
  EXPECT_EQ(ends_as(Trainer::End::interrupted), 0);
}

}  // namespace
}  // namespace harmonic
